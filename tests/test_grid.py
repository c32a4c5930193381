"""A matrix cut along both sides, against sub-matrices taken by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfn_optax import Edge, FlowGraph, pfn
from pfn_optax.capacity import Statistics, capacity_rule
from pfn_optax.grid import Chunks, GridLayer
from pfn_optax.partition import Partition, block_energies, block_norms, scale_blocks

pytestmark = pytest.mark.usefixtures("unoptimized")


def chunks(axis: int, labels) -> Chunks:
    labels = np.asarray(labels, np.int32)
    names = tuple(f"chunk {number}" for number in range(labels.max() + 1))
    return Chunks(axis, labels.tobytes(), names)


@st.composite
def grid_layers(draw) -> GridLayer:
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=2, max_size=4)))
    axes = sorted(draw(st.sets(st.integers(0, len(shape) - 1), max_size=2)))
    sides = []
    for axis in axes:
        count = draw(st.integers(1, shape[axis]))
        labels = draw(
            st.lists(st.integers(0, count - 1), min_size=shape[axis], max_size=shape[axis])
        )
        sides.append(chunks(axis, np.unique(labels, return_inverse=True)[1]))
    return GridLayer("layer", ("w",), shape, tuple(sides), 0)


def by_hand(layer: GridLayer, matrix: np.ndarray) -> list[np.ndarray]:
    """The sub-matrices in the order of the blocks."""
    blocks = [matrix]
    for side in layer.sides:
        blocks = [
            np.take(block, np.flatnonzero(side.chunk_of == chunk), axis=side.axis)
            for block in blocks
            for chunk in range(len(side.names))
        ]
    return blocks


@settings(max_examples=20)  # each has shapes of its own to compile
@given(grid_layers(), st.integers(0, 100))
def test_blocks_are_the_sub_matrices(layer, seed):
    matrix = np.random.default_rng(seed).normal(size=layer.shape)
    blocks = by_hand(layer, matrix)
    layout = Partition((layer,), ())
    assert layer.num_blocks == len(blocks)

    @jax.jit
    def measured_and_scaled(tree, multipliers):
        return block_norms(layout, tree), scale_blocks(layout, tree, multipliers)

    multipliers = np.arange(1, len(blocks) + 1, dtype=np.float32)
    norms, scaled = measured_and_scaled({"w": matrix}, multipliers)
    np.testing.assert_allclose(norms, [np.linalg.norm(block) for block in blocks], rtol=1e-5)
    for number, block in enumerate(by_hand(layer, np.asarray(scaled["w"]))):
        np.testing.assert_allclose(block, blocks[number] * (number + 1), rtol=1e-5)


@settings(max_examples=20)  # each has shapes of its own to compile
@given(grid_layers(), st.integers(0, 100))
def test_cells_share_the_rank_of_the_layer_by_their_energy(layer, seed):
    matrix = np.random.default_rng(seed).normal(size=layer.shape).astype(np.float32)
    layout = Partition((layer,), ())

    @jax.jit
    def capacities(matrix):
        known = Statistics(jnp.ones(layer.num_blocks), {("w",): matrix}, layout)
        return capacity_rule("effective_rank").function(known, layout)

    columns = np.moveaxis(matrix, layer.unit_axis, -1).reshape(-1, matrix.shape[layer.unit_axis])
    values = np.square(np.linalg.svd(columns, compute_uv=False))
    shares = [np.square(block).sum() / np.square(matrix).sum() for block in by_hand(layer, matrix)]
    np.testing.assert_allclose(
        capacities(matrix),
        values.sum() ** 2 / np.square(values).sum() * np.asarray(shares),
        rtol=1e-3,
    )


@settings(max_examples=20)  # each has shapes of its own to compile
@given(grid_layers(), st.integers(0, 100))
def test_energy_does_not_depend_on_how_finely_a_layer_is_cut(layer, seed):
    matrix = np.random.default_rng(seed).normal(size=layer.shape)
    energies = jax.jit(lambda x: block_energies(Partition((layer,), ()), {("w",): x}))(matrix)
    np.testing.assert_allclose(np.sum(energies), np.square(matrix).sum(), rtol=1e-5)


def test_blocks_are_described_by_their_units():
    sides = (Chunks(0, np.int32([0, 0, 1]).tobytes(), ("0:2", "2:3")), chunks(1, [0, 1]))
    layer = GridLayer("layer", ("w",), (3, 2), sides, 0)
    assert [layer.describe_block(n) for n in range(4)] == [
        "0:2 x chunk 0",
        "0:2 x chunk 1",
        "2:3 x chunk 0",
        "2:3 x chunk 1",
    ]


@pytest.fixture(scope="module")
def square() -> FlowGraph:
    """One hidden group of four units in two chunks, each with a path of its own."""
    first = GridLayer("w1", ("w1",), (3, 4), (chunks(1, [0, 0, 1, 1]),), 0)
    second = GridLayer("w2", ("w2",), (4, 1), (chunks(0, [0, 0, 1, 1]),), 2)
    return FlowGraph(
        (
            Edge("loss", "h[0:2]", "w2", blocks=(0,)),
            Edge("loss", "h[2:4]", "w2", blocks=(1,)),
            Edge("h[0:2]", "data", "w1", blocks=(0,)),
            Edge("h[2:4]", "data", "w1", blocks=(1,)),
        ),
        layout=Partition((first, second), ()),
    )


def test_the_cut_runs_through_several_layers(square):
    # The first chunk is narrow at w1, the second at w2.
    grads = {
        "w1": jnp.asarray([[1.0, 1.0, 9.0, 9.0]] * 3),
        "w2": jnp.asarray([[9.0], [9.0], [1.0], [1.0]]),
    }
    optimizer = pfn(graph=square, capacity="norm", every=1)
    updates, state = jax.jit(optimizer.update)(grads, optimizer.init(grads), grads)
    assert optax.tree.get(state, "pfn_cut").tolist() == [True, False, False, True]
    np.testing.assert_allclose(updates["w1"] / grads["w1"], [[2.8, 2.8, 1, 1]] * 3, rtol=1e-6)
    np.testing.assert_allclose(updates["w2"] / grads["w2"], [[1], [1], [2.8], [2.8]], rtol=1e-6)


def test_a_graph_with_blocks_of_its_own_takes_no_block_size(square):
    with pytest.raises(ValueError, match=r"brings its own blocks, .* got block_size=4"):
        pfn(graph=square, block_size=4)


def test_a_tree_that_the_graph_was_not_made_for_is_refused(square):
    with pytest.raises(ValueError, match="no leaf 'w2'"):
        pfn(graph=square).init({"w1": jnp.ones((3, 4)), "w3": jnp.ones((4, 1))})
    with pytest.raises(ValueError, match=r"w1 has shape \(3, 6\), but the blocks were made for"):
        pfn(graph=square).init({"w1": jnp.ones((3, 6)), "w2": jnp.ones((4, 1))})


def test_edges_name_blocks_that_exist(square):
    graph = FlowGraph((Edge("loss", "data", "w1", blocks=(7,)),), layout=square.layout)
    with pytest.raises(ValueError, match="names blocks that layer 'w1' does not have: it has 2"):
        graph.bind(square.layout)
