"""Ten thousand random instances over eight decades against OR-Tools, cold and warm.

OR-Tools takes integers. So capacities are whole numbers of three significant bits, which float32
holds, and what a cut costs can be compared to the last digit.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ortools.graph.python.max_flow import SimpleMaxFlow

from pfn_optax.flow import WarmStart, certify, max_flow
from tests.compilation import SHORT_CODE
from tests.flow.families import complete, layered, sparse

BATCH = 500
NETWORKS = {
    "complete": complete(7),
    "sparse": sparse(24, 96, seed=7),
    "layered": layered(5, 4),
    "skips": layered(6, 4, skip=2),
}
NUM_BATCHES = 5  # 2,500 instances of each network


def draw(network, seed):
    """Whole numbers from 1 to 10^8, log-uniform, and a tenth to all of them present."""
    rng = np.random.default_rng(seed)
    shape = (BATCH, network.num_edges)
    exponent = rng.integers(0, 25, shape)
    capacities = rng.integers(4, 8, shape) * 2.0**exponent
    return (capacities * (rng.random(shape) < rng.uniform(0.1, 1, (BATCH, 1)))).astype(np.float32)


def truth_of(network, capacities):
    """The value, exact."""
    solver = SimpleMaxFlow()
    ends = np.array(network.tails), np.array(network.heads)
    solver.add_arcs_with_capacity(*ends, capacities.astype(np.int64))
    assert solver.solve(network.source, network.sink) == solver.OPTIMAL
    return solver.optimal_flow()


def corrupted(flow, capacities, side, inner, rng):
    """For each instance another cut, and the flow with one of its edges emptied."""
    rows = np.arange(len(side))
    other = side.copy()
    node = rng.choice(inner, len(side))
    other[rows, node] = ~other[rows, node]
    emptied = flow.copy()
    emptied[rows, flow.argmax(1)] = 0
    return other, emptied


@pytest.mark.parametrize("name", NETWORKS)
def test_every_cut_is_exact_and_every_certificate_honest(name):
    network = NETWORKS[name]
    ends = (network.source, network.sink)
    inner = [v for v in range(network.num_nodes) if v not in ends]
    tails, heads = np.array(network.tails), np.array(network.heads)

    @functools.partial(jax.jit, compiler_options=SHORT_CODE)
    @jax.vmap
    def solve(capacities, warm):
        cold = max_flow(network, capacities, return_flow=True)
        return cold, max_flow(network, capacities, warm=warm)

    check = jax.jit(jax.vmap(lambda c, flow, side: certify(network, c, flow, side)))
    warm = jax.tree.map(lambda a: jnp.zeros((BATCH, *a.shape), a.dtype), WarmStart.zeros(network))
    rng, num_refused = np.random.default_rng(0), 0
    for seed in range(NUM_BATCHES):
        capacities = draw(network, seed)
        cold, warmed = jax.tree.map(np.asarray, solve(jnp.asarray(capacities), warm))
        warm = warmed.warm  # of an unrelated problem, for the next
        whole = capacities.astype(np.int64)
        truth = np.array([truth_of(network, c) for c in whole])
        for answer in (cold, warmed):
            assert answer.certified.all()
            np.testing.assert_allclose(answer.value, truth, rtol=1e-5)
            leaves = answer.source_side[:, tails] & ~answer.source_side[:, heads]
            np.testing.assert_array_equal(leaves, answer.cut)
            # Cuts are ties if they agree up to rounding; no other is ever named.
            cost = np.where(answer.cut, whole, 0).sum(1)
            np.testing.assert_array_equal(cost[answer.unique], truth[answer.unique])
            assert (cost <= truth * (1 + 1e-5)).all()
        # Edges without capacity belong to one of two equal cuts or to none of them.
        np.testing.assert_array_equal(warmed.cut & (whole > 0), cold.cut & (whole > 0))

        # What is accepted is true; any other cut that costs more is not accepted.
        other, emptied = corrupted(cold.flow, capacities, cold.source_side, inner, rng)
        cost = np.where(other[:, tails] & ~other[:, heads], whole, 0).sum(1)
        is_worse = cost > truth * (1 + 1e-4)
        assert not check(capacities, cold.flow, other)[is_worse].any()
        # The flow of the widest edge is missing somewhere, unless that edge was not needed.
        accepted = np.asarray(check(capacities, emptied, cold.source_side))
        lost = cold.flow.max(1) > 1e-4 * truth
        assert not accepted[lost].any()
        num_refused += is_worse.sum() + lost.sum()
    assert num_refused > NUM_BATCHES * BATCH
