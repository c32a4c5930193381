"""Series-parallel reduction: what collapses, and that no cut or flow is lost on the way back.

The same problems are solved by the general form without reduction, which keeps push-relabel under
test on networks that would not reach it otherwise.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax.flow import FlowNetwork, certify, max_flow
from pfn_optax.flow.reduce import reduction_of
from pfn_optax.flow.solve import solve
from pfn_optax.precision import double_precision
from tests.compilation import UNOPTIMIZED
from tests.flow.families import (
    BATCH,
    CAPACITIES,
    NETWORKS,
    batch_solver,
    chain,
    complete,
    cut_of,
    draw,
    excess_of,
    oracle,
    series_parallel,
)


def branching(num_blocks, lengths):
    """Blocks in series, each of branches of the given lengths; 1 is a skip."""
    edges, node = [], num_blocks + 1
    for block, length in itertools.product(range(num_blocks), lengths):
        path = [block, *range(node, node + length - 1), block + 1]
        edges += itertools.pairwise(path)
        node += length - 1
    return FlowNetwork.from_edges(edges, source=0, sink=num_blocks)


def refined(network, seed):
    """Every edge of a network replaced by a random series-parallel one."""
    rng, edges, num_nodes = np.random.default_rng(seed), [], network.num_nodes
    for tail, head in zip(network.tails, network.heads, strict=True):
        part = series_parallel(int(rng.integers(1, 6)), int(rng.integers(1000)))
        node = [tail, head, *range(num_nodes, num_nodes + part.num_nodes - 2)]
        edges += [(node[u], node[v]) for u, v in zip(part.tails, part.heads, strict=True)]
        num_nodes += part.num_nodes - 2
    ends = {"source": network.source, "sink": network.sink}
    return FlowNetwork.from_edges(edges, **ends, num_nodes=num_nodes)


def nested(depth):
    """Behind one more edge and beside one more edge, again and again."""
    edges = [(0, 1)] + [edge for v in range(1, depth) for edge in ((v, v + 1), (0, v + 1))]
    return FlowNetwork.from_edges(edges, source=0, sink=depth)


SERIES_PARALLEL = {
    "chain": NETWORKS["chain"],
    "residual": branching(4, (1, 3)),
    "inception": branching(3, (1, 2, 3, 3)),
    "random": series_parallel(40, seed=1),
    "larger": series_parallel(150, seed=2),
}
OTHERS = {
    "refined": refined(complete(4), seed=3),
    # A cycle through the source, one that nothing reaches, a dead end, a node without edges.
    "leftovers": FlowNetwork.from_edges(
        [(0, 1), (1, 2), (2, 0), (3, 4), (4, 3), (0, 5), (5, 6), (0, 7), (7, 8), (4, 9), (9, 8)],
        source=0,
        sink=8,
        num_nodes=11,
    ),
}
ALL = SERIES_PARALLEL | OTHERS


@functools.cache
def unreduced_solver(network):
    """The general form on the network as it is."""
    compiled = functools.partial(jax.jit, compiler_options=UNOPTIMIZED)
    general = compiled(jax.vmap(lambda c: solve(network, c, return_flow=True)))
    check = compiled(jax.vmap(lambda c, f, s: certify(network, c, f, s, rtol=1e-4), (0, 0, 0)))
    return lambda c: jax.tree.map(np.asarray, general(jnp.asarray(c))), check


@pytest.mark.parametrize("name", SERIES_PARALLEL)
def test_series_parallel_networks_collapse(name):
    network = SERIES_PARALLEL[name]
    core = reduction_of(network).core
    assert (core.num_nodes, core.tails, core.heads) == (2, (core.source,), (core.sink,))
    ones = jnp.ones(network.num_edges)
    assert "while" not in str(jax.make_jaxpr(lambda c: max_flow(network, c))(ones))


@pytest.mark.parametrize("network", [NETWORKS["skips"], *OTHERS.values()], ids=["skips", *OTHERS])
def test_other_networks_leave_a_core_to_push_relabel(network):
    ones = jnp.ones(network.num_edges)
    assert "while" in str(jax.make_jaxpr(lambda c: max_flow(network, c))(ones))


def test_what_cannot_be_merged_stays():
    assert reduction_of(NETWORKS["skips"]).merges == ()
    # The refined edges of a complete network go; what they refined stays, without duplicates.
    core = reduction_of(OTHERS["refined"]).core
    ends = list(zip(core.tails, core.heads, strict=True))
    assert len(set(ends)) == len(ends)
    assert set(itertools.permutations(range(4), 2)) <= set(ends)
    # 0 -> 7 -> 8 and 4 -> 9 -> 8 and 0 -> 5 -> 6 merge, the two cycles do not.
    assert reduction_of(OTHERS["leftovers"]).core.num_edges == 8


@pytest.mark.parametrize("num_layers", [2, 50, 5000])
def test_merges_grow_with_the_height_not_the_length(num_layers):
    assert len(reduction_of(chain(num_layers, 2)).merges) == 2
    assert len(reduction_of(branching(num_layers, (1, 3))).merges) == 3


def test_a_long_path_does_not_widen_the_others():
    edges = list(itertools.pairwise([0, *range(2, 3002), 1]))
    edges += [edge for v in range(3002, 6002) for edge in ((0, v), (v, 1))]
    network = FlowNetwork.from_edges(edges, source=0, sink=1)
    merges = reduction_of(network).merges
    assert sum(merge.child.size for merge in merges) <= 2 * network.num_edges


@pytest.mark.parametrize("name", ALL)
def test_both_cuts_are_the_extreme_ones(name):
    """Against a search in igraph's residual graph, with zeros and ties."""
    network, num_ties = ALL[name], 0
    for family in ("integer", "equal"):
        capacities = draw(family, network, seed=5)
        near, far = (batch_solver(network, side)(capacities) for side in ("source", "sink"))
        for i, capacity in enumerate(capacities):
            truth = oracle(network, capacity)
            np.testing.assert_array_equal(near.source_side[i], truth.smallest)
            np.testing.assert_array_equal(far.source_side[i], truth.largest)
            np.testing.assert_allclose(near.value[i], truth.value, rtol=1e-6)
            cuts = cut_of(network, truth.smallest), cut_of(network, truth.largest)
            np.testing.assert_array_equal(near.cut[i], cuts[0])
            np.testing.assert_array_equal(far.cut[i], cuts[1])
            assert near.unique[i] == far.unique[i] == np.array_equal(*cuts)
            num_ties += not near.unique[i]
        assert near.certified.all()
        assert far.certified.all()
    assert num_ties > 0


@pytest.mark.parametrize("name", ["chain", "random", "larger", *OTHERS])
def test_agrees_with_push_relabel_on_the_network_as_it_is(name):
    network = ALL[name]
    general, check = unreduced_solver(network)
    for family in CAPACITIES:
        capacities = draw(family, network, seed=6)
        reduced, whole = batch_solver(network)(capacities), general(capacities)
        assert reduced.certified.all()
        np.testing.assert_array_equal(whole.is_finite, np.isfinite(reduced.value))
        finite = np.flatnonzero(whole.is_finite)
        for side in (0, 1):
            assert check(capacities, whole.flow, whole.sides[:, side])[finite].all()
        for i in finite:
            cuts = [cut_of(network, side) for side in whole.sides[i]]
            np.testing.assert_allclose(capacities[i][cuts[0]].sum(), reduced.value[i], rtol=1e-5)
            if family == "decades":  # what is a tie up to rounding depends on what was added
                continue
            np.testing.assert_array_equal(reduced.source_side[i], whole.sides[i, 0])
            assert reduced.unique[i] == (cuts[0] == cuts[1]).all()


@pytest.mark.parametrize("name", ALL)
def test_flow_is_feasible_and_conserved(name):
    network = ALL[name]
    for family in CAPACITIES:
        capacities = draw(family, network, seed=7)
        answers = batch_solver(network)(capacities)
        flows = np.asarray(answers.flow)
        assert (flows <= capacities * np.float32(1 + 1e-6)).all()
        assert (flows >= 0).all()
        for value, flow in zip(answers.value, flows, strict=True):
            if np.isfinite(value):
                excess = excess_of(network, flow)
                excess[[network.source, network.sink]] += value, -value
                assert np.abs(excess).sum() <= 1e-4 * value


def test_rounding_decides_no_tie_without_reduction():
    """The general form on layers of the same capacities in other orders."""
    network = NETWORKS["chain"]
    layer = 0.1 + 0.9 * np.arange(30) / 29
    layers = np.broadcast_to(layer, (BATCH, 6, 30)).astype(np.float32)
    layers = np.random.default_rng(0).permuted(layers, axis=-1)
    sides = unreduced_solver(network)[0](layers.reshape(BATCH, -1)).sides
    np.testing.assert_array_equal(sides[:, 0].sum(1), 1)
    np.testing.assert_array_equal(sides[:, 1].sum(1), 6)


def test_nests_that_are_too_deep_are_left_to_the_core():
    network = nested(15)
    assert reduction_of(network).core.num_edges > 1
    capacities = np.random.default_rng(8).uniform(0.1, 1, network.num_edges).astype(np.float32)
    value = capacities[0]
    for behind, beside in capacities[1:].reshape(-1, 2):
        value = min(value, behind) + beside
    answer = max_flow(network, jnp.asarray(capacities))
    np.testing.assert_allclose(answer.value, value, rtol=1e-5)
    assert answer.certified


def test_a_long_chain_is_certified():
    """Rounding adds up along the path: the certificate allows for it."""
    network = chain(3000, 5)
    capacities = np.random.default_rng(9).uniform(0.5, 1, (3000, 5)).astype(np.float32)
    capacities[1234] = 0.3 * capacities[1234]
    answer = max_flow(network, jnp.asarray(capacities.ravel()), return_flow=True)
    assert answer.certified
    assert answer.unique
    assert answer.rounds == 0
    np.testing.assert_array_equal(np.flatnonzero(answer.cut), 1234 * 5 + np.arange(5))


def test_derivative_is_the_indicator_of_the_cut():
    network = SERIES_PARALLEL["inception"]
    capacities = jnp.asarray(draw("uniform", network, seed=5))
    gradients = jax.jit(jax.vmap(jax.grad(lambda c: max_flow(network, c).value)))(capacities)
    np.testing.assert_array_equal(gradients, batch_solver(network)(capacities).cut)


def test_float64_is_exact_to_its_own_rounding():
    network = SERIES_PARALLEL["random"]
    with double_precision():
        capacities = np.random.default_rng(3).uniform(0.1, 1, (BATCH, network.num_edges))
        answers = jax.vmap(lambda c: max_flow(network, c, return_flow=True))(capacities)
        assert answers.value.dtype == np.float64
    assert answers.certified.all()
    truth = [oracle(network, c) for c in capacities]
    np.testing.assert_allclose(answers.value, [t.value for t in truth], rtol=1e-14)
    np.testing.assert_array_equal(answers.source_side, [t.smallest for t in truth])


def test_paths_of_infinite_capacity():
    """An infinite skip bounds nothing beside it; infinite all the way, there is no cut."""
    network = SERIES_PARALLEL["residual"]
    skips = np.arange(0, network.num_edges, 4)
    capacities = np.ones((BATCH, network.num_edges), np.float32)
    capacities[0, skips] = np.inf
    capacities[1, skips[:-1]] = np.inf
    capacities[2, skips[:-1]] = np.inf
    capacities[2, 5:8] = np.inf
    answers = batch_solver(network)(capacities)
    np.testing.assert_array_equal(answers.value[:4], [np.inf, 2, 2, 2])
    assert not answers.cut[0].any()
    assert not answers.source_side[0].any()
    assert answers.certified.all()
    np.testing.assert_array_equal(answers.unique[:4], [False, False, False, False])
    # Beside an infinite skip a branch counts for its capacity; the skip, for what arrives.
    flows = np.asarray(answers.flow)
    np.testing.assert_allclose(flows[1, 4:8], [4 / 3, 2 / 3, 2 / 3, 2 / 3], rtol=1e-6)
    np.testing.assert_allclose(flows[2, 4:8], [1, 1, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(flows[3], 1)
