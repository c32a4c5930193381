"""What a network costs is what it takes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfn_optax.growth import Budget, Cost, cost_of, grow
from pfn_optax.growth.metering import Meter
from pfn_optax.units import unit_spec
from tests.growth.networks import X, predict, weights


def nbytes(*trees):
    return sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(trees))


def test_parameters_and_bytes_are_those_of_the_arrays():
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), weights(0))
    optimizer = optax.adamw(0.1)
    state = optimizer.init(params)
    assert cost_of(params) == Cost(sum(leaf.size for leaf in jax.tree.leaves(params)))
    assert cost_of(params, optimizer=optimizer).memory == nbytes(params, params, state)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    assert 2 * cost_of(half, optimizer=optax.sgd(0.1)).memory == nbytes(params, params)
    pair = optax.LookaheadParams.init_synced(params)
    ahead = optax.lookahead(optax.sgd(0.1), 5, 0.5)
    assert cost_of(pair, optimizer=ahead).params == cost_of(params).params
    assert cost_of(pair, optimizer=ahead).memory == nbytes(pair, params, ahead.init(pair))


def test_operations_are_those_of_the_products():
    params = weights(0)
    products = 2 * len(X) * sum(leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim > 1)
    found = cost_of(params, call=(predict, params, X)).flops
    assert products <= found <= 1.3 * products


@pytest.mark.usefixtures("unoptimized")
def test_other_sizes_cost_what_they_cost_once_grown():
    """Also in a module of Linen, which fixes its widths."""

    class Network(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.BatchNorm(True)(nn.Dense(self.width)(x)))
            return nn.Dense(2)(x)

    variables = Network(4).init(jax.random.key(0), X)
    optimizer, name = optax.adam(0.1), "params/Dense_0"
    spec = unit_spec(Network(4).apply, variables, X, check=False)
    params, stats = variables["params"], variables["batch_stats"]
    start = grow(params, spec, name, 1, spread=0, batch_stats=stats)
    budget = Budget(flops=1e9, memory=10**9)

    def function_at(spec):
        return Network(spec.group(name).size).apply

    meter = Meter(start, budget, function_at, (X,), lambda params, spec: optimizer)
    expected = Network(9).init(jax.random.key(0), X)
    assert meter.cost({name: 9}) == cost_of(
        expected["params"], call=(Network(9).apply, expected, X), optimizer=optimizer
    )
    assert meter.cost({}).params < meter.cost({name: 6}).params


def test_words():
    budget = Budget(params=1000, flops=2e6, memory=10**9)
    assert budget.excess(Cost(1000, 2e6, 10**9)) == ""
    assert budget.excess(Cost(1001, 3e6, 0)) == (
        "1,001 parameters where 1,000 are allowed, 3e+06 FLOPs where 2e+06 are allowed"
    )
    assert Budget(memory=8).excess(Cost(1, None, 1200)) == "1,200 bytes where 8 are allowed"
    assert budget.used(Cost(10, 1e6, 2000)) == (
        "10 of 1,000 parameters, 1e+06 of 2e+06 FLOPs, 2,000 of 1,000,000,000 bytes"
    )
    assert Budget().used(Cost(10)) == "10 parameters"


@pytest.mark.parametrize("name", ["params", "flops", "memory"])
def test_bad_bounds(name):
    with pytest.raises(ValueError, match=f"the budget of {name} must be positive or None, got 0"):
        Budget(**{name: 0})
