"""The benchmarks' page is made from their measurements, and their arms do what they say."""

import copy
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from benchmarks import (
    batches,
    dynamics,
    figures,
    graphs,
    monitors,
    overhead,
    peers,
    scaling,
    tables,
)
from experiments.resnet import resnet
from pfn_optax import pfn
from tests.tolerance import rtol

pytestmark = pytest.mark.usefixtures("unoptimized")


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


def test_a_spectrum_says_which_peer_was_not_installed():
    record = tables.measurements()["curvature"]
    alone = record["seconds"] | {}
    alone.pop("curvlinops, density", None)
    table = tables.curvature(record | {"seconds": alone})
    assert table.endswith("| curvlinops (not installed) | - | - |")
    assert "| curvlinops |" not in table


def test_a_loop_without_its_peer_is_shown_with_dashes():
    row = {
        "graph": "4 x 4",
        "num_edges": 56,
        "loop_solves": 20,
        "loop_milliseconds": {"ours": 0.25, "ours, warm": 0.125},
        "accepted": 0.9,
    }
    alone = row | {"loop_milliseconds": {"ours": 0.25}, "accepted": None}
    beside = row | {"loop_milliseconds": row["loop_milliseconds"] | {"OR-Tools": 0.05}}
    *_, first, second, third = tables.loop([row, alone, beside]).splitlines()
    assert first == "| 4 x 4 | 56 | 0.25 | - | - | 0.125 | - | 90% of 20 |"
    assert second == "| 4 x 4 | 56 | 0.25 | - | - | - | - | - |"
    assert third == "| 4 x 4 | 56 | 0.25 | 0.05 | 5.00 | 0.125 | 2.50 | 90% of 20 |"


def test_overhead_is_amortised_over_the_period():
    milliseconds = {
        "sgd": 10,
        "clip_by_global_norm": 12,
        "layers, diagnosing step": 61,
        "layers, other steps": 11,
    }
    record = {
        "jax": "0",
        "device": "cpu",
        "num_params": 1000,
        "batch_size": 128,
        "every": 50,
        "graphs": {"layers": {"nodes": 3, "edges": 4, "blocks": 4}},
        "draw_seconds": 0.5,
        "step_seconds": 4.0,
        "update_seconds": {name: time / 1e3 for name, time in milliseconds.items()},
        "compile_seconds": dict.fromkeys(milliseconds, 2.0) | {"sgd": 0.5},
    }
    text = tables.overhead(record)
    # (49 x 11 + 61) / 50 - 10 = 2 ms, of 4,000.
    assert "| layers | 2.00 | 0.050% |" in text
    assert "| layers, diagnosing step | 61.00 | 51.00 | 1.275% | 1.5 |" in text
    assert "takes 0.92 times the update" in text


def test_records_of_monitors_are_amortised_over_the_period():
    record = {
        "jax": "0",
        "device": "cpu",
        "num_params": 1000,
        "batch_size": 128,
        "every": 50,
        "step_seconds": 4.0,
        "update_seconds": {
            "sgd": 0.010,
            "gradients, recording step": 0.061,
            "gradients, other steps": 0.011,
        },
        "forward_seconds": {"plain forward run": 1.0, "activations, recording step": 1.2},
    }
    text = tables.monitors(record)
    assert "| gradients | 51.0 | 1.00 | 0.050% |" in text  # (49 x 1 + 51) / 50 = 2 ms, of 4,000
    assert "| activations | 1200.0 | 0.00 | 0.600% |" in text


def test_a_growth_step_is_compared_with_a_training_step():
    arm = {
        "kinds_seconds": 3.0,
        "first_step": {"seconds": 2.5, "programs": 12},
        "seconds": {"step": 1.5, "proposal": 0.5, "grow": 0.9},
        "training_step_seconds": 6.0,
        "recompile": {"seconds": 40.0, "programs": 1},
        "grown": {"a": 16},
        "num_params": 1000,
        "new_num_params": 1200,
    }
    record = {
        "jax": "0",
        "device": "cpu",
        "batch_size": 8,
        "spec_seconds": 2.0,
        "optimizers": {"Adam": arm},
    }
    text = tables.growth(record)
    assert "1,000 parameters, 1,200 afterwards (a by 16), batch 8" in text
    assert "| Adam | 3.0 | 0.50 | 0.90 | 1.50 | 0.25 | 2.50 (12) | 40.0 (1) |" in text


@pytest.mark.slow
def test_monitors_are_measured_on_a_narrow_network():
    record = monitors.measure(
        monitors.Config(repeats=1, num_steps=2, batch_size=4, width=2, stages=(1, 1))
    )
    assert "| activations of a quarter |" in tables.monitors(record)


@pytest.mark.parametrize("family", graphs.FAMILIES)
def test_families_have_about_the_size_that_was_asked_for(family):
    for size in (100, 1000):
        case = graphs.FAMILIES[family](size)
        assert abs(case.network.num_nodes - size) <= 16
        assert graphs.draw_capacities(case, (2,)).shape == (2, case.network.num_edges)


def test_the_ends_of_layered_graphs_cannot_be_the_cut():
    case = graphs.Case(graphs.layered(4, 3), is_layered=True)
    capacities = graphs.draw_capacities(case)
    is_end = np.isin(case.network.tails, case.network.source)
    is_end |= np.isin(case.network.heads, case.network.sink)
    assert is_end.sum() == 6
    assert capacities[is_end].sum() / 2 > capacities[~is_end].sum() / 3


def test_capacities_drift_by_a_hundredth():
    case = graphs.Case(graphs.layered(6, 8), is_layered=True)
    changes = np.diff(np.log(graphs.drifting(case, 40)), axis=0)
    np.testing.assert_allclose(changes.std(), 0.01, rtol=0.05)
    np.testing.assert_allclose(changes.mean(), 0, atol=0.001)


@functools.cache
def smallest_graphs():
    """The measurements of the smallest layered graph and chain, as read from their JSON."""
    cases = {
        "chain of layers": graphs.Case(graphs.chain(3, 2)),
        "layered": graphs.Case(graphs.layered(3, 2), is_layered=True),
    }
    rows = [scaling.measure(family, case, 1) for family, case in cases.items()]
    return json.loads(json.dumps(rows))


def test_every_solver_is_measured_in_a_call_and_ours_warm_where_layered():
    chain, layered = smallest_graphs()
    for row in (chain, layered):
        assert set(row["milliseconds"]) == {"ours", *peers.PREPARE}
        assert min(row["milliseconds"].values()) > 0
        assert row["xla_bytes"] >= 4 * row["num_edges"]  # the capacities, at least
    assert set(chain["loop_milliseconds"]) == {"ours", "OR-Tools"}
    assert chain["accepted"] is None
    assert set(layered["loop_milliseconds"]) == {"ours", "OR-Tools", "ours, warm"}
    assert 0.5 < layered["accepted"] <= 1
    assert layered["static_bytes"] > chain["static_bytes"]


def test_a_kept_graph_is_solved_with_each_row_of_capacities():
    case = graphs.Case(graphs.sparse(8, 30))
    capacities = graphs.draw_capacities(case, (5,))
    values = peers.ortools_loop(case.network, capacities)()
    others = [peers.prepare_scipy(case.network, row)()() for row in capacities]
    np.testing.assert_allclose(values, others, rtol=1e-6)
    assert np.unique(values).size == 5


def scaling_record():
    """Four families, each of two sizes, made up from two small graphs."""
    small = smallest_graphs()[1]
    large = small | {
        "num_nodes": 10 * small["num_nodes"],
        "num_edges": 10 * small["num_edges"],
        "loop_milliseconds": {
            name: 100 * time for name, time in small["loop_milliseconds"].items()
        },
    }
    return {
        "rows": [row | {"family": name} for name in graphs.FAMILIES for row in (small, large)],
    }


def test_growth_is_the_power_of_the_edges():
    *_, last = tables.scaling(scaling_record()).splitlines()
    assert last.startswith("| sparse | 80 | 120 |")
    assert "| 2.0 and 2.0 |" in last


def test_the_picture_shows_what_was_measured(tmp_path):
    record = scaling_record()
    figure = figures.scaling(record)
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == 6
    for family in graphs.FAMILIES:
        axes = figure.axes[titles.index(f"{family}: time per solve")]
        lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
        assert set(lines) == {label for label, _ in figures.LINES.values()}
        its = [row for row in record["rows"] if row["family"] == family]
        loops = [row["loop_milliseconds"]["ours, warm"] for row in its]
        np.testing.assert_array_equal(lines["ours, warm"], loops)
    figures.save(figure, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_resnet_18_has_the_parameters_of_the_usual_one():
    model = nnx.eval_shape(lambda: resnet(rngs=nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(leaf.size for leaf in leaves) == 11_173_962


def test_an_update_goes_through_the_gradients_in_turn():
    gradients = [jnp.array([1.0, 0.0]), jnp.array([0.0, 2.0])]
    update = overhead.update_alone(optax.identity(), jnp.zeros(2), gradients)
    changes = [update.run() for _ in range(3)]
    # SGD with rate 0.1 and momentum 0.9: the traces are (1, 0), (0.9, 2), (1.81, 1.8).
    expected = -0.1 * np.array([[1, 0], [0.9, 2], [1.81, 1.8]])
    np.testing.assert_allclose(np.stack(changes), expected, rtol=rtol())
    assert update.compile_seconds > 0


@pytest.mark.slow
def test_overhead_is_measured_on_a_narrow_network():
    sizes = {"batch_size": 2, "num_blocks": 2, "width": 2, "stages": (1, 1)}
    record = overhead.measure(overhead.Config(repeats=1, num_steps=2, **sizes))
    assert record["graphs"]["units"]["nodes"] > record["graphs"]["layers"]["nodes"]
    assert set(record["update_seconds"]) == set(record["compile_seconds"])
    assert "| units, warm |" in tables.overhead(record)


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


def test_the_two_spectra_of_a_network_agree():
    weights = dynamics.draw_weights(8)
    found = dynamics.ours(jnp.asarray(weights), 4, 2, 10)(jnp.full(8, 0.1))
    expected = dynamics.by_numpy(weights, 4, 2, 10)
    np.testing.assert_allclose(found.exponents, expected, atol=1e-4)


def test_the_picture_of_the_spectra_has_a_line_per_part():
    record = tables.measurements()["dynamics"]
    left, right = figures.dynamics(record).axes
    assert [line.get_label() for line in left.get_lines()] == ["spectrum", "products", "QR"]
    largest = [row for row in record["costs"] if row["size"] == 512]
    times = [row["milliseconds_per_step"]["QR"] for row in largest]
    np.testing.assert_array_equal(right.get_lines()[2].get_ydata(), times)
