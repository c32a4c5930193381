"""The solver against igraph, its special values, ties, derivatives and modes of execution."""

import functools

import jax
import jax.numpy as jnp
import networkx
import numpy as np
import pytest
from ortools.graph.python.max_flow import SimpleMaxFlow

from pfn_optax.flow import FlowNetwork, max_flow
from pfn_optax.precision import double_precision
from tests.compilation import UNOPTIMIZED
from tests.flow.families import (
    BATCH,
    CAPACITIES,
    NETWORKS,
    batch_solver,
    cut_of,
    draw,
    excess_of,
    layered,
    oracle,
    sparse,
)


def check_against_oracle(network, capacities, answers, *, rtol):
    """Each answer of a batch: value, cut, flow, certificate, uniqueness."""
    assert answers.certified.all()
    for i, capacity in enumerate(capacities.astype(np.float64)):
        answer = jax.tree.map(lambda leaf, i=i: leaf[i], answers)
        truth = oracle(network, capacity)
        np.testing.assert_allclose(answer.value, truth.value, rtol=rtol)
        if np.isinf(truth.value):
            assert not answer.cut.any()
            continue
        assert answer.source_side[network.source]
        assert not answer.source_side[network.sink]
        np.testing.assert_array_equal(answer.cut, cut_of(network, answer.source_side))
        np.testing.assert_allclose(capacity[answer.cut].sum(), truth.value, rtol=rtol)

        assert (answer.flow >= 0).all()
        assert (answer.flow <= capacity * (1 + rtol)).all()
        excess = excess_of(network, answer.flow)
        excess[network.source] += truth.value
        excess[network.sink] -= truth.value
        # What a certificate promises: 1e-5, or 4 units of rounding per round and per edge of an
        # average path if that is more.
        num_steps = answer.rounds + answer.flow.sum() / max(truth.value, 1e-30)
        promised = max(rtol, 4 * num_steps * np.finfo(answer.flow.dtype).eps)
        assert np.abs(excess).max() <= 2 * promised * truth.value

        if answer.unique:
            np.testing.assert_array_equal(answer.cut, cut_of(network, truth.smallest))
            np.testing.assert_array_equal(answer.cut, cut_of(network, truth.largest))


@pytest.mark.parametrize("family", CAPACITIES)
@pytest.mark.parametrize("name", NETWORKS)
def test_agrees_with_igraph(name, family):
    network = NETWORKS[name]
    capacities = draw(family, network)
    answers = batch_solver(network)(capacities)
    check_against_oracle(network, capacities, answers, rtol=1e-5)


@pytest.mark.parametrize("family", [name for name in CAPACITIES if name != "infinite"])
@pytest.mark.parametrize("name", NETWORKS)
def test_value_and_cut_agree_with_ortools(name, family):
    network, scale = NETWORKS[name], 1e12  # OR-Tools takes integers; eight decades fit
    capacities = draw(family, network, seed=2).astype(np.float64)
    answers = batch_solver(network)(capacities.astype(np.float32))
    for row, capacity in enumerate(capacities):
        solver = SimpleMaxFlow()
        ends = np.array(network.tails), np.array(network.heads)
        solver.add_arcs_with_capacity(*ends, np.rint(scale * capacity).astype(np.int64))
        solver.solve(network.source, network.sink)
        value = solver.optimal_flow() / scale
        np.testing.assert_allclose(answers.value[row], value, rtol=1e-5, atol=1e-11)
        cut = capacity[answers.cut[row]].sum()
        np.testing.assert_allclose(cut, value, rtol=1e-5, atol=1e-11)


def test_agrees_with_igraph_in_float64():
    network = NETWORKS["complete"]
    capacities = np.concatenate([draw(f, network, seed=1) for f in CAPACITIES])
    with double_precision():
        solve = jax.vmap(lambda c: max_flow(network, c, return_flow=True))
        solve = jax.jit(solve, compiler_options=UNOPTIMIZED)
        answers = jax.tree.map(np.asarray, solve(capacities.astype(np.float64)))
    assert answers.value.dtype == answers.flow.dtype == np.float64
    check_against_oracle(network, capacities, answers, rtol=1e-11)


@pytest.mark.parametrize("side", ["source", "sink"])
@pytest.mark.parametrize("name", ["chain", "complete"])
def test_named_cut_is_the_extreme_one(name, side):
    network = NETWORKS[name]
    capacities = draw("integer", network, seed=2)
    answers = batch_solver(network, side)(capacities)
    num_ties = 0
    for capacity, source_side, unique in zip(
        capacities, answers.source_side, answers.unique, strict=True
    ):
        truth = oracle(network, capacity)
        expected = truth.smallest if side == "source" else truth.largest
        np.testing.assert_array_equal(source_side, expected)
        cuts = cut_of(network, truth.smallest), cut_of(network, truth.largest)
        assert unique == np.array_equal(*cuts)
        num_ties += not unique
    assert 0 < num_ties < len(capacities)


@pytest.mark.slow
@pytest.mark.parametrize("family", CAPACITIES)
@pytest.mark.parametrize(
    "network",
    [layered(20, 16), layered(20, 8, skip=3), sparse(300, 1500, seed=5), sparse(60, 240, seed=6)],
    ids=["layered", "skips", "sparse", "small_sparse"],
)
def test_agrees_with_igraph_on_larger_networks(network, family):
    capacities = draw(family, network, seed=4)
    answers = batch_solver(network, optimized=True)(capacities)
    check_against_oracle(network, capacities, answers, rtol=1e-5)


def test_textbook_network():
    """Figure 26.1 of Cormen et al., Introduction to Algorithms, third edition."""
    edges = [(0, 1), (0, 2), (1, 3), (2, 1), (2, 4), (3, 2), (3, 5), (4, 3), (4, 5)]
    network = FlowNetwork.from_edges(edges, source=0, sink=5)
    capacities = jnp.array([16.0, 13, 12, 4, 14, 9, 20, 7, 4])
    answer = max_flow(network, capacities, return_flow=True)
    assert answer.value == 23
    assert np.flatnonzero(answer.cut).tolist() == [2, 7, 8]
    assert answer.certified
    assert answer.unique
    np.testing.assert_allclose(excess_of(network, answer.flow), [-23, 0, 0, 0, 0, 23], atol=1e-5)


def test_partition_is_right_where_networkx_names_another():
    """networkx tests float residuals for equality: {0} here, a cut of 3.1, for a flow of 2.8."""
    edges = {(0, 1): 0.6, (0, 2): 2.5, (1, 2): 1.3, (1, 3): 1.8, (2, 1): 2.0, (2, 3): 1.0}
    network = FlowNetwork.from_edges(edges, source=0, sink=3)
    answer = max_flow(network, jnp.array(list(edges.values())))
    assert answer.source_side.tolist() == [True, True, True, False]
    assert answer.certified

    graph = networkx.DiGraph()
    for (tail, head), capacity in edges.items():
        graph.add_edge(tail, head, capacity=capacity)
    value, (theirs, _) = networkx.minimum_cut(graph, 0, 3)
    np.testing.assert_allclose(answer.value, value, rtol=1e-6)
    crossing = sum(c for (u, v), c in edges.items() if u in theirs and v not in theirs)
    assert answer.value <= crossing


DIAMOND = FlowNetwork.from_edges([(0, 1), (0, 2), (1, 3), (2, 3), (0, 3)], source=0, sink=3)


@pytest.mark.parametrize(
    ("capacities", "value", "cut", "certified"),
    [
        ([0.0, 0, 0, 0, 0], 0.0, [1, 1, 0, 0, 1], True),
        ([-1.0, 2, 3, 1, -5], 1.0, [1, 0, 0, 1, 1], True),
        ([1e-40, 2, 3, 1, 0], 1.0, [1, 0, 0, 1, 1], True),  # subnormal: 0
        ([1e-40, 1e-40, 1e-40, 1e-40, 1e-40], 0.0, [1, 1, 0, 0, 1], True),
        ([1e-30, 2e-30, 3e-30, 1e-30, 0], 2e-30, [1, 0, 0, 1, 1], True),
        ([1e38, 1e38, 5e37, 5e37, 0], 1e38, [0, 0, 1, 1, 1], True),
        ([np.inf, np.inf, 3, 1, 0], 4.0, [0, 0, 1, 1, 1], True),
        ([np.inf, 2, np.inf, 1, 1], np.inf, [0, 0, 0, 0, 0], True),
        ([1.0, 2, 3, 1, np.inf], np.inf, [0, 0, 0, 0, 0], True),
        ([np.nan, 2, 3, 1, 1], np.nan, [0, 0, 0, 0, 0], False),
        ([np.inf, np.inf, np.inf, np.nan, np.inf], np.nan, [0, 0, 0, 0, 0], False),
    ],
)
def test_special_values(capacities, value, cut, certified):
    answer = max_flow(DIAMOND, jnp.array(capacities, jnp.float32), return_flow=True)
    np.testing.assert_allclose(answer.value, value, rtol=1e-6)
    assert answer.cut.tolist() == [bool(edge) for edge in cut]
    assert answer.certified == certified
    if not any(cut):
        assert not answer.source_side.any()
        assert not answer.unique
    assert np.isfinite(np.asarray(answer.flow)[np.isfinite(capacities)]).all()


def test_too_few_rounds_are_not_certified():
    network = NETWORKS["layered"]
    capacities = jnp.asarray(draw("uniform", network)[0])
    short = max_flow(network, capacities, max_rounds=3)
    assert not short.certified
    assert short.rounds == 3
    full = max_flow(network, capacities, max_rounds=100)
    assert full.certified
    assert full.rounds < 100


def test_ties_are_broken_by_rule_not_by_rounding():
    """Layers of equal capacities in other orders: their float sums differ, the cut must not."""
    network, num_layers, num_blocks = NETWORKS["chain"], 6, 30
    layer = 0.1 + 0.9 * np.arange(num_blocks) / (num_blocks - 1)
    layers = np.broadcast_to(layer, (BATCH, num_layers, num_blocks)).astype(np.float32)
    layers = np.random.default_rng(0).permuted(layers, axis=-1)
    assert len(np.unique(layers.cumsum(-1)[..., -1])) > 1
    for side, expected in (("source", 0), ("sink", num_layers - 1)):
        answers = batch_solver(network, side)(layers.reshape(BATCH, -1))
        cut = answers.cut.reshape(layers.shape)
        assert cut[:, expected].all()
        assert cut.sum() == BATCH * num_blocks
        assert not answers.unique.any()
        assert answers.certified.all()


def test_named_cut_does_not_depend_on_numbering():
    network = NETWORKS["skips"]
    rng = np.random.default_rng(1)
    nodes, order = rng.permutation(network.num_nodes), rng.permutation(network.num_edges)
    tails, heads = np.array(network.tails), np.array(network.heads)
    renamed = FlowNetwork(
        network.num_nodes,
        tuple(nodes[tails[order]]),
        tuple(nodes[heads[order]]),
        int(nodes[network.source]),
        int(nodes[network.sink]),
    )
    for family in ("equal", "uniform", "absent"):
        capacities = draw(family, network)
        answers = batch_solver(network)(capacities)
        others = batch_solver(renamed)(capacities[:, order])
        np.testing.assert_array_equal(others.cut, answers.cut[:, order])
        np.testing.assert_array_equal(others.source_side[:, nodes], answers.source_side)
        np.testing.assert_array_equal(others.unique, answers.unique)
        np.testing.assert_allclose(others.value, answers.value, rtol=1e-6)


class TestDerivative:
    """The value's derivative is the cut's indicator, in every mode."""

    network = NETWORKS["skips"]
    capacities = jnp.asarray(draw("uniform", network))

    @functools.cached_property
    def value(self):
        return jax.jit(lambda c: max_flow(self.network, c).value)

    @functools.cached_property
    def cuts(self):
        return batch_solver(self.network)(self.capacities).cut

    def test_reverse_mode_under_vmap_and_jit(self):
        gradients = jax.jit(jax.vmap(jax.grad(self.value)))(self.capacities)
        np.testing.assert_array_equal(gradients, self.cuts)

    def test_forward_mode(self):
        direction = jnp.asarray(np.random.default_rng(2).normal(size=self.network.num_edges))
        direction = direction.astype(jnp.float32)
        value, tangent = jax.jvp(self.value, (self.capacities[0],), (direction,))
        np.testing.assert_allclose(value, self.value(self.capacities[0]))
        np.testing.assert_allclose(tangent, direction[self.cuts[0]].sum(), rtol=1e-5)

    def test_hessian_is_zero(self):
        assert not jax.hessian(self.value)(self.capacities[0]).any()

    def test_finite_differences(self):
        with double_precision():
            capacities = jnp.asarray(self.capacities[0], jnp.float64)
            answer = max_flow(self.network, capacities)
            assert answer.unique
            steps = 1e-6 * jnp.eye(self.network.num_edges, dtype=jnp.float64)
            values = jax.jit(jax.vmap(lambda c: max_flow(self.network, c).value))
            slopes = (values(capacities + steps) - values(capacities - steps)) / 2e-6
            np.testing.assert_allclose(slopes, answer.cut, atol=1e-8)

    def test_infinite_and_invalid_values_have_no_slope(self):
        gradient = jax.grad(lambda c: max_flow(DIAMOND, c).value)
        assert not gradient(jnp.full(5, jnp.inf)).any()
        assert not gradient(jnp.full(5, jnp.nan)).any()


def test_eager_jit_vmap_and_scan_agree_exactly():
    network = NETWORKS["complete"]
    capacities = jnp.asarray(draw("absent", network)[:3])

    def solve(capacity):
        return max_flow(network, capacity, return_flow=True)

    batched = jax.vmap(solve)(capacities)
    _, scanned = jax.lax.scan(lambda carry, c: (carry, solve(c)), None, capacities)
    singles = [solve(c) for c in capacities]
    compiled = jax.jit(solve)
    jitted = [compiled(c) for c in capacities]
    for answers in (
        scanned,
        *(jax.tree.map(lambda *x: jnp.stack(x), *a) for a in (singles, jitted)),
    ):
        jax.tree.map(np.testing.assert_array_equal, answers, batched)


def test_second_call_does_not_trace_again():
    network, traces = NETWORKS["chain"], []

    @jax.jit
    def solve(capacities):
        traces.append(None)
        return max_flow(network, capacities).value

    ones = jnp.ones(network.num_edges)
    assert 2 * solve(ones) == solve(2 * ones)
    assert len(traces) == 1


def test_flow_is_optional():
    assert max_flow(DIAMOND, jnp.ones(5)).flow is None


def test_parallel_edges_share_and_antiparallel_edges_cancel():
    edges = [(0, 1), (1, 2), (1, 2), (2, 1), (2, 3), (1, 1), (2, 0), (3, 1)]
    network = FlowNetwork.from_edges(edges, source=0, sink=3)
    capacities = jnp.array([3.0, 4.0, 2.0, 5.0, 9.0, 7.0, 7.0, 7.0])
    answer = max_flow(network, capacities, return_flow=True)
    np.testing.assert_allclose(np.asarray(answer.flow), [3, 2, 1, 0, 3, 0, 0, 0], rtol=1e-6)
    assert answer.cut.tolist() == [True] + [False] * 7


@pytest.mark.parametrize("name", ["series_parallel", "sparse"])
def test_no_implicit_promotion(name, strict):
    network = {
        "series_parallel": FlowNetwork.from_edges(
            [(0, 1), (0, 1), (1, 2), (2, 3), (1, 3)], source=0, sink=3
        ),
        "sparse": FlowNetwork.from_edges(
            [(0, 1), (0, 2), (1, 2), (2, 1), (1, 3), (2, 3)], source=0, sink=3
        ),
    }[name]
    answer = max_flow(network, jnp.arange(1.0, 1 + network.num_edges), return_flow=True)
    assert answer.certified
