"""The certificate accepts optimal pairs and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax.flow import certify, max_flow
from pfn_optax.precision import double_precision
from tests.flow.families import NETWORKS, draw, oracle

NETWORK = NETWORKS["skips"]
CAPACITIES = jnp.asarray(draw("uniform", NETWORK)[0])
CHECK = jax.jit(lambda c, flow, side: certify(NETWORK, c, flow, side))


@pytest.fixture(scope="module")
def answer():
    return max_flow(NETWORK, CAPACITIES, return_flow=True)


def test_optimal_pair_is_accepted(answer):
    assert CHECK(CAPACITIES, answer.flow, answer.source_side)


def test_flow_of_another_solver_is_accepted():
    """igraph's flow and cut, in float64 at the tighter tolerance."""
    with double_precision():
        capacities = CAPACITIES.astype(jnp.float64)
        truth = oracle(NETWORK, np.asarray(capacities))
        flow, side = jnp.asarray(truth.flow), jnp.asarray(truth.smallest)
        assert certify(NETWORK, capacities, flow, side)
        assert not certify(NETWORK, capacities, 0.999999 * flow, side)


@pytest.mark.parametrize("factor", [0.999, 1.001, 0.0, -1.0])
def test_scaled_flow_is_refused(answer, factor):
    # More than the capacity is clipped away, so 1.001 leaves the cut full but other edges
    # out of balance.
    assert not CHECK(CAPACITIES, answer.flow * jnp.float32(factor), answer.source_side)


def test_every_other_cut_is_refused(answer):
    """Moving one node across makes another cut; the minimum is unique here."""
    assert answer.unique
    inner = [v for v in range(NETWORK.num_nodes) if v not in (NETWORK.source, NETWORK.sink)]
    sides = jnp.stack([answer.source_side.at[v].set(~answer.source_side[v]) for v in inner])
    accepted = jax.vmap(CHECK, (None, None, 0))(CAPACITIES, answer.flow, sides)
    assert not accepted.any()


def test_cut_that_does_not_separate_is_refused(answer):
    for node in (NETWORK.source, NETWORK.sink):
        side = answer.source_side.at[node].set(node == NETWORK.sink)
        assert not CHECK(CAPACITIES, answer.flow, side)


def test_flow_from_nowhere_is_refused(answer):
    """A full cut fed by nothing: the arcs are feasible, conservation fails."""
    flow = jnp.where(answer.cut, CAPACITIES, 0)
    into_sink = jnp.array(NETWORK.heads) == NETWORK.sink
    flow = jnp.where(into_sink, CAPACITIES, flow)
    assert not CHECK(CAPACITIES, flow, answer.source_side)


def test_corrupted_edges_are_refused(answer):
    """Emptying any edge that carries flow breaks the proof; so does filling an inner one."""
    loaded = np.flatnonzero((answer.flow > 1e-2) & (answer.flow < CAPACITIES - 1e-2))
    assert loaded.size > 10
    emptied = jnp.stack([answer.flow.at[e].set(0) for e in loaded])
    filled = jnp.stack([answer.flow.at[e].set(CAPACITIES[e]) for e in loaded])
    check = jax.vmap(CHECK, (None, 0, None))
    assert not check(CAPACITIES, emptied, answer.source_side).any()
    # What the source sends in vain harms no proof, and what the sink receives from nowhere is
    # taken off again.
    harmless = np.array(NETWORK.tails)[loaded] == NETWORK.source
    harmless |= np.array(NETWORK.heads)[loaded] == NETWORK.sink
    accepted = check(CAPACITIES, filled, answer.source_side)
    np.testing.assert_array_equal(accepted, harmless)


def test_not_a_number_is_refused(answer):
    assert not CHECK(CAPACITIES.at[0].set(jnp.nan), answer.flow, answer.source_side)
    assert not CHECK(CAPACITIES, answer.flow.at[0].set(jnp.nan), answer.source_side)
    assert not CHECK(jnp.full_like(CAPACITIES, jnp.inf), answer.flow, answer.source_side)
