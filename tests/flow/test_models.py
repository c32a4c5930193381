"""What the reduction leaves of graphs that were traced from models."""

import warnings

import jax
import pytest

from pfn_optax import GraphWarning, graph_from_loss, unit_graph
from pfn_optax.flow import FlowNetwork
from pfn_optax.flow.reduce import reduction_of
from pfn_optax.partition import partition
from tests.zoo import LARGE, SMALL

MODELS = SMALL | LARGE

# Edges of the unit graph and of its core, for chunks of one and of two hidden units. Two dense
# layers in a row make a core; chunks that are as wide as the layer leave a chain.
UNIT_EDGES = {
    "mlp": [(62, 62), (19, 19)],
    "autoencoder": [(24, 24), (8, 1)],
    "cnn": [(180, 180), (50, 50)],
    "inception": [(34, 34), (11, 1)],
    "densenet": [(68, 60), (25, 21)],
    "resnet": [(212, 212), (58, 58)],
    "gru": [(80, 28), (28, 10)],  # the gates' matrices lie beside each other
    "transformer": [(1200, 1136), (312, 296)],
}


def trace(derive, name, **options):
    case = MODELS[name](make=jax.eval_shape)
    with warnings.catch_warnings():
        if name == "autoencoder":  # its input is its target too
            warnings.simplefilter("ignore", GraphWarning)
        return case, derive(case.loss, case.params, *case.args, **options)


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"lstm"}))
def test_the_layers_of_a_model_are_series_parallel(name):
    """Nothing is left to iterate on, however many blocks a layer has."""
    case, graph = trace(graph_from_loss, name)
    network = graph.bind(partition(case.params)).network
    assert network.num_edges >= len(graph.layers) > 1
    core = reduction_of(network).core
    assert core == FlowNetwork.from_edges(
        [(core.source, core.sink)], source=core.source, sink=core.sink
    )


def test_the_cell_of_an_lstm_bridges_two_ways():
    """From the last state both the one before and the cell are read, and from that one the cell."""
    case, graph = trace(graph_from_loss, "lstm")
    core = reduction_of(graph.bind(partition(case.params)).network).core
    assert (core.num_nodes, core.num_edges) == (5, 7)


@pytest.mark.parametrize("name", sorted(UNIT_EDGES))
def test_the_units_of_a_model_leave_a_core(name):
    for block_size, expected in zip((1, 2), UNIT_EDGES[name], strict=True):
        _, graph = trace(unit_graph, name, block_size=block_size)
        network = graph.bind(graph.layout).network
        assert (network.num_edges, reduction_of(network).core.num_edges) == expected
