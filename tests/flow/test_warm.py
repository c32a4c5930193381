"""Warm starts: the same cut as without, and push-relabel wherever the steps prove nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax.flow import FlowNetwork, WarmStart, max_flow
from pfn_optax.flow.first_order import propose
from pfn_optax.flow.layers import layers_of
from pfn_optax.flow.layout import layout_of
from tests.compilation import UNOPTIMIZED
from tests.flow.families import (
    BATCH,
    CAPACITIES,
    NETWORKS,
    batch_solver,
    cut_of,
    draw,
    layered,
    oracle,
)

CHAIN = FlowNetwork.from_edges([(0, 1), (1, 2)], source=0, sink=2)
NAMES = ["layered", "skips", "complete"]


@functools.cache
def warm_solver(network):
    solve = jax.vmap(lambda c, warm: max_flow(network, c, warm=warm))
    solve = jax.jit(solve, compiler_options=UNOPTIMIZED)
    return lambda c, warm: jax.tree.map(np.asarray, solve(jnp.asarray(c), warm))


def cold_starts(network):
    zeros = WarmStart.zeros(network)
    return jax.tree.map(lambda a: jnp.zeros((BATCH, *a.shape), a.dtype), zeros)


def drifted(capacities, seed):
    noise = np.random.default_rng(seed).normal(size=capacities.shape)
    return (capacities * np.exp(0.01 * noise)).astype(np.float32)


def assert_same_answer(warm, cold):
    for name in ("cut", "source_side", "value", "certified", "unique"):
        np.testing.assert_array_equal(getattr(warm, name), getattr(cold, name), err_msg=name)


@pytest.mark.parametrize("name", NAMES)
def test_a_drifting_problem_has_the_cold_cut_and_mostly_no_rounds(name):
    network = NETWORKS[name]
    capacities, warm, num_warm = draw("uniform", network, seed=21), cold_starts(network), 0
    for step in range(4):
        cold = batch_solver(network)(capacities)
        answer = warm_solver(network)(capacities, warm)
        assert_same_answer(answer, cold)
        num_warm += (answer.rounds == 0).sum() if step else 0
        capacities, warm = drifted(capacities, step), answer.warm
    assert num_warm > 3 * BATCH / 2


@pytest.mark.parametrize("family", CAPACITIES)
@pytest.mark.parametrize("name", NAMES)
def test_any_start_leads_to_the_cold_answer(name, family):
    """From the answer to another problem, even."""
    network = NETWORKS[name]
    other = warm_solver(network)(draw("absent", network, seed=22), cold_starts(network)).warm
    capacities = draw(family, network, seed=23)
    assert_same_answer(warm_solver(network)(capacities, other), batch_solver(network)(capacities))


@pytest.mark.parametrize("value", [np.nan, np.inf, -3.0])
def test_a_corrupted_start_is_harmless(value):
    network = NETWORKS["skips"]
    starts = jax.tree.map(lambda a: jnp.full_like(a, value), cold_starts(network))
    capacities = draw("uniform", network, seed=24)
    answer = warm_solver(network)(capacities, starts)
    assert_same_answer(answer, batch_solver(network)(capacities))
    assert all(np.isfinite(leaf).all() for leaf in answer.warm)


def test_ties_are_left_to_push_relabel():
    network = NETWORKS["layered"]
    capacities = draw("equal", network, seed=25)
    capacities[:] = 0.1
    first = warm_solver(network)(capacities, cold_starts(network))
    again = warm_solver(network)(capacities, first.warm)
    assert not again.unique.any()
    assert (again.rounds > 0).all()


def test_the_next_start_proves_its_own_problem_at_once():
    """An exact saddle point: the bounds meet before the first step."""
    network = NETWORKS["complete"]
    capacities = draw("uniform", network, seed=26)
    first = warm_solver(network)(capacities, cold_starts(network))
    again = warm_solver(network)(capacities, first.warm)
    assert (again.rounds[again.unique] == 0).all()
    assert again.unique.any()


def test_proposals_of_both_forms_hold_the_cut():
    """What is called unique is igraph's cut; what is not still encloses it."""
    network = layered(5, 4)
    capacities = draw("uniform", network, seed=27)
    starts = cold_starts(network)
    starts = warm_solver(network)(drifted(capacities, 1), starts).warm
    truths = [oracle(network, c) for c in capacities]
    layout = layout_of(network)
    for form in (layout, layers_of(layout)):
        solve = jax.vmap(functools.partial(propose, form))
        solve = jax.jit(solve, compiler_options=UNOPTIMIZED)
        proposal = jax.tree.map(np.asarray, solve(capacities / 64, starts))
        assert proposal.is_unique.mean() > 0.5
        for i, truth in enumerate(truths):
            near, far = (np.append(rows, [True, False])[form.row] for rows in proposal.rows[i])
            assert (near <= truth.smallest).all()
            assert (far >= truth.largest).all()
            if proposal.is_unique[i]:
                cut = cut_of(network, truth.smallest)
                np.testing.assert_array_equal(cut_of(network, near), cut)


def test_a_chain_carries_its_start_along():
    answer = max_flow(CHAIN, jnp.array([3.0, 2.0]), warm=WarmStart.zeros(CHAIN))
    assert (answer.value, answer.rounds) == (2, 0)
    assert answer.warm.potential.tolist() == [1, 0]
    assert answer.warm.share.tolist() == [1]
    assert max_flow(CHAIN, jnp.array([3.0, 2.0])).warm is None


def test_the_derivative_does_not_see_the_start():
    warm = WarmStart.zeros(CHAIN)
    gradient = jax.grad(lambda c: max_flow(CHAIN, c, warm=warm).value)(jnp.array([3.0, 2.0]))
    assert gradient.tolist() == [0, 1]


def test_bad_starts_are_refused():
    warm = WarmStart.zeros(NETWORKS["skips"])
    with pytest.raises(ValueError, match=r"warm.potential must be float32\[2\], got float32\[26\]"):
        max_flow(CHAIN, jnp.ones(2), warm=warm)
    with pytest.raises(ValueError, match="cannot be combined with return_flow=True"):
        max_flow(CHAIN, jnp.ones(2), warm=WarmStart.zeros(CHAIN), return_flow=True)
