"""Growth over depth, below and above the edge of chaos."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax.diagnosis.case import DoesNotApply, Skip
from pfn_optax.diagnosis.checks.chaos import check_chaos
from pfn_optax.diagnosis.tangents import measure_tangents
from pfn_optax.propagation import mean_field
from tests.diagnosis.quadratics import case_of

WIDTH, DEPTH = 128, 10
KERNELS = jax.random.normal(jax.random.key(1), (DEPTH, WIDTH, WIDTH)) / WIDTH**0.5
X = jax.random.normal(jax.random.key(2), (4, WIDTH))


def loss(params, x):
    for kernel in params.values():
        x = jnp.tanh(x @ kernel)
    return jnp.mean(x**2)


def case_with(gain, depth=DEPTH, x=X):
    params = {f"layer{i}": gain * kernel for i, kernel in enumerate(KERNELS[:depth])}
    return case_of(loss, params, x)


def test_beyond_the_edge_of_chaos_it_is_that_of_mean_field():
    case = case_with(3.0)
    expected = np.log(mean_field(jnp.tanh, 9.0, 0.0).chi_1) / 2
    assert case.once(measure_tangents).exponent == pytest.approx(expected, rel=0.15)
    [found] = check_chaos(case)
    assert (found.severity.name, found.cause.value) == ("NOTE", "exploding_gradient")


def test_before_it_neighbours_stay_together():
    case = case_with(1.0)
    assert not list(check_chaos(case))
    assert abs(case.measures["lyapunov_exponent"]) < 0.2


def test_integers_and_few_layers_are_nothing_to_measure():
    with pytest.raises(DoesNotApply, match=r"fewer than 6 layers$"):
        case_with(1.0, depth=3).once(measure_tangents)
    with pytest.raises(DoesNotApply, match="integers"):
        case_with(1.0, x=jnp.ones((4, WIDTH), jnp.int32)).once(measure_tangents)


def test_a_network_too_shallow_for_it_to_matter_is_not_noted():
    case = case_with(3.0, depth=6)
    assert case.once(measure_tangents).exponent > 0.2
    assert not list(check_chaos(case))


def test_few_layers_of_many_and_a_tangent_of_zero_are_missed():
    params = {f"l{n}": {"w": jnp.eye(WIDTH)} for n in range(6)}

    def loss(params, x):
        for n in range(3):
            x = x @ params[f"l{n}"]["w"]
        for n in range(3, 6):  # which are not recognised
            x = x @ jnp.sin(params[f"l{n}"]["w"] * x.mean())
        return jnp.mean(x**2)

    case = case_of(loss, params, jnp.ones((4, WIDTH)))
    with pytest.raises(Skip, match="were recognised; not: l3, l4, l5") as caught:
        case.once(measure_tangents)
    assert caught.type is Skip
    with pytest.raises(Skip, match="is 0 or not finite") as caught:
        case_with(0.0).once(measure_tangents)
    assert caught.type is Skip
