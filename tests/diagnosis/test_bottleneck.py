"""The cut of the ranks, where it is the head and where it is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax.diagnosis import Cause, Severity
from pfn_optax.diagnosis.bottleneck import measure_flow
from pfn_optax.diagnosis.case import Skip
from pfn_optax.diagnosis.checks.bottleneck import check_bottleneck
from tests.diagnosis.quadratics import case_of

X = jax.random.normal(jax.random.key(0), (8, 16))


def loss(params, x):
    for kernel in params.values():
        x = jnp.tanh(x @ kernel)
    return jnp.mean(x**2)


def around(params, x):
    """With a shortcut around the second and the third layer."""
    x = jnp.tanh(x @ params["0"])
    x = x + jnp.tanh(x @ params["1"]) @ params["2"]
    return jnp.mean((x @ params["3"]) ** 2)


def kernels(*widths):
    keys = jax.random.split(jax.random.key(1), len(widths))
    pairs = zip(keys, widths[:-1], widths[1:], strict=False)
    return {str(i): jax.random.normal(key, pair) for i, (key, *pair) in enumerate(pairs)}


@pytest.mark.parametrize(
    ("width", "severity"), [(1, Severity.CRITICAL), (4, Severity.WARNING), (5, None)]
)
def test_a_waist_of_less_than_half_of_what_the_head_needs(width, severity):
    found = list(check_bottleneck(case_of(loss, kernels(16, 16, width, 16, 10), X)))
    assert [one.severity for one in found] == ([] if severity is None else [severity])
    if found:
        assert (found[0].cause, found[0].evidence[0].value) == (Cause.BOTTLENECK, width)
        assert "20 units or more" in found[0].remedy
        assert found[0].layers == ("1",)  # the layer into the waist


def test_a_matrix_of_rank_one_is_a_waist():
    params = kernels(16, 16, 16, 10)
    params["1"] = jnp.outer(params["1"][0], params["1"][1])
    [found] = check_bottleneck(case_of(loss, params, X))
    assert (found.layers, "initialise" in found.remedy) == (("1",), True)


def test_a_shortcut_leads_around_it():
    case = case_of(around, kernels(16, 16, 1, 16, 10), X)
    assert not list(check_bottleneck(case))
    assert case.once(measure_flow).value == 10


def test_ends_that_are_as_narrow_need_no_more():
    assert not list(check_bottleneck(case_of(loss, kernels(16, 16, 1, 16, 1), X)))


def test_an_autoencoder_may_have_a_code():
    case = case_of(loss, kernels(64, 64, 10, 64, 64), jnp.tile(X, 4))
    assert not list(check_bottleneck(case))
    case = case_of(loss, kernels(64, 64, 10, 64, 64), jnp.tile(X, 4), needed_rank=32)
    assert list(check_bottleneck(case))


def test_ranks_are_those_of_the_matrices():
    params = kernels(16, 12, 7, 10)
    ranks = case_of(loss, params, X).once(measure_flow).ranks
    assert list(ranks.values()) == [np.linalg.matrix_rank(kernel) for kernel in params.values()]


def test_zeros_are_no_bottleneck():
    params = jax.tree.map(jnp.zeros_like, kernels(16, 16, 10))
    assert not list(check_bottleneck(case_of(loss, params, X)))


def test_a_loss_without_layers_is_skipped():
    with pytest.raises(Skip, match="through any layer"):
        list(check_bottleneck(case_of(lambda params, x: jnp.sum(params["w"] ** 2))))
