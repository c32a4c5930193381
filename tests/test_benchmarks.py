"""The benchmarks' page is made from their measurements, and their arms do what they say."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import batches, tables
from pfn_optax import pfn
from tests.tolerance import rtol


def test_page_shows_the_committed_measurements():
    page = tables.PAGE.read_text()
    assert tables.rewritten(page, tables.measurements()) == page


def test_another_measurement_makes_another_table_and_leaves_the_text():
    page, records = tables.PAGE.read_text(), tables.measurements()
    slower = copy.deepcopy(records)
    slower["solver"][0]["milliseconds"]["ours"] = 1234.0
    before, after = page.splitlines(), tables.rewritten(page, slower).splitlines()
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == 1
    assert changed[0].startswith(f"| {records['solver'][0]['graph']} |")
    assert "1.23e+03" in changed[0]


def test_a_page_without_a_measured_table_is_refused():
    with pytest.raises(ValueError, match=r"has the tables none, the results batches; each must"):
        tables.rewritten("# No tables\n", {"batches": {}})


def test_solvers_that_were_not_installed_are_dashes():
    row = dict(tables.measurements()["solver"][0], milliseconds={"ours": 1.0, "igraph": 2.0})
    row["num_core_edges"] = 1
    *_, line = tables.solver([row]).splitlines()
    assert line.startswith(f"| {row['graph']} | {row['num_edges']} | 0 | 1 | 2 | - |")


@functools.cache
def trained(kind):
    """Parameters and state of two models after one diagnosis period."""
    sgd = optax.sgd(0.01, momentum=0.9)
    own = batches.behind_cond(None) if kind == "cond" else pfn(every=batches.EVERY)
    prepare = {"prepare": batches.out_of_step} if kind == "out of step" else {}
    return batches.period(optax.chain(own, sgd), 2, **prepare)()


def test_cond_decides_the_same():
    (params, state), (others, other) = trained("in step"), trained("cond")
    assert optax.tree.get(state, "pfn_diagnoses").tolist() == [1, 1]
    np.testing.assert_array_equal(
        optax.tree.get(state, "pfn_cut"), optax.tree.get(other, "pfn_cut")
    )
    for left, right in zip(jax.tree.leaves(params), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(left, right, rtol=rtol(factor=1000), atol=1e-5)


def test_models_out_of_step_diagnose_once_each_at_other_steps():
    _, state = trained("out of step")
    assert optax.tree.get(state, "pfn_diagnoses").tolist() == [1, 1]
    steps = optax.tree.get(state, "pfn_step")
    assert jnp.unique(steps % batches.EVERY).size == 2
