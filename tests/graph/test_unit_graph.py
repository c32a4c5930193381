"""Unit graphs of the zoo's models refine their graphs of layers: no path is lost, none is made."""

import functools
import warnings

import igraph
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax import FlowGraph, graph_from_loss, unit_graph
from pfn_optax.graph import GraphWarning
from pfn_optax.partition import Partition, partition
from tests.zoo import SMALL

# A concatenation's parts need not carry equal shares, so there a uniform spread is no upper bound.
CONCATENATING = {"densenet", "unet", "unet_resized", "inception"}


@functools.cache
def graphs(name: str, block_size: int) -> tuple[FlowGraph, FlowGraph, Partition]:
    case = SMALL[name](make=jax.eval_shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GraphWarning)  # the autoencoder's target
        layers = graph_from_loss(case.loss, case.params, *case.args)
        units = unit_graph(case.loss, case.params, *case.args, block_size=block_size)
    return layers, units, partition(case.params)


def maximum_flow(graph: FlowGraph, layout: Partition, capacity_of: dict[str, float]) -> float:
    """Every block has an equal part of its layer's capacity."""
    capacities = np.concatenate(
        [
            np.full(layer.num_blocks, capacity_of[layer.name] / layer.num_blocks)
            for layer in layout.layers
        ]
    )
    bound = graph.bind(layout)
    on_edges = np.where(bound.edge_block >= 0, capacities[bound.edge_block], 1e6)
    ends = list(zip(bound.network.tails, bound.network.heads, strict=True))
    network = igraph.Graph(bound.network.num_nodes, ends, directed=True)
    return network.maxflow_value(bound.network.source, bound.network.sink, on_edges.tolist())


@pytest.mark.parametrize("block_size", [2, 5])
@pytest.mark.parametrize("name", sorted(SMALL))
def test_layers_cut_into_equal_parts_pass_what_they_passed(name, block_size):
    layers, units, rows = graphs(name, block_size)
    assert units.layers == layers.layers
    random = np.random.default_rng(0)
    for _ in range(5):
        capacity_of = {layer.name: float(random.uniform(1, 9)) for layer in rows.layers}
        whole = maximum_flow(layers, rows, capacity_of)
        assert units.layout is not None
        refined = maximum_flow(units, units.layout, capacity_of)
        if name in CONCATENATING:
            assert refined <= whole * (1 + 1e-9)
            assert refined > 0.5 * whole
        else:
            np.testing.assert_allclose(refined, whole, rtol=1e-9)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_every_matrix_between_hidden_units_is_cut_on_both_sides(name):
    """A layer that neither reads data nor makes outputs has blocks along both."""
    layers, units, _ = graphs(name, 2)
    assert units.layout is not None
    ends = {edge.layer for edge in layers.edges if "data" in edge[:2] or "loss" in edge[:2]}
    inner = [grid for grid in units.layout.grids.values() if grid.name not in ends]
    assert [grid.name for grid in inner if len(grid.sides) < 2] == []


def test_no_model_of_the_zoo_has_units_tied_to_their_order():
    for name in SMALL:
        assert not [text for text in graphs(name, 2)[1].warnings if "tied to their order" in text]


def test_units_tied_to_their_order_are_named():
    """Sinusoidal positions differ from channel to channel and cannot be permuted."""
    waves = np.sin(np.outer(np.arange(5), np.arange(4))).astype(np.float32)

    def loss(params, tokens):
        x = params["embed"][tokens] + waves
        return jnp.sum(jax.nn.relu(x @ params["up"]) @ params["head"])

    shapes = {"embed": (7, 4), "up": (4, 6), "head": (6, 2)}
    params = {key: jnp.ones(shape) for key, shape in shapes.items()}
    with pytest.warns(GraphWarning, match=r"units at 'embed', 'up' are tied to their order"):
        graph = unit_graph(loss, params, jnp.ones((3, 5), int), block_size=2)
    assert {node for node in graph.nodes if "[" in node} == {"up[0:2]", "up[2:4]", "up[4:6]"}
