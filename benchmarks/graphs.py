"""The flow networks that solvers are timed on, and their capacities."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pfn_optax.flow import FlowNetwork

DRIFT = 0.01  # what a capacity changes by, relatively, from one solve to the next


class Case(NamedTuple):
    """A network, and whether it is made of layers joined completely, as unit graphs are."""

    network: FlowNetwork
    is_layered: bool = False


def chain(num_layers: int, num_blocks: int) -> FlowNetwork:
    """Layers in series, each of parallel blocks."""
    edges = [(layer, layer + 1) for layer in range(num_layers) for _ in range(num_blocks)]
    return FlowNetwork.from_edges(edges, source=0, sink=num_layers)


def residual(num_blocks: int, depth: int) -> FlowNetwork:
    """Blocks in series, each of a few edges in series beside a skip."""
    edges, node = [], num_blocks + 1
    for block in range(num_blocks):
        edges += [(block, block + 1), *itertools.pairwise([block, *range(node, node + depth - 1)])]
        edges.append((node + depth - 2, block + 1))
        node += depth - 1
    return FlowNetwork.from_edges(edges, source=0, sink=num_blocks)


def layered(num_layers: int, width: int, *, skip: int = 0) -> FlowNetwork:
    """Layers of groups, neighbours joined completely, groups `skip` layers apart one to one."""
    node = np.arange(num_layers * width).reshape(num_layers, width)
    layers, source, sink = node.tolist(), node.size, node.size + 1
    edges = [(source, v) for v in layers[0]] + [(v, sink) for v in layers[-1]]
    edges += [(u, v) for a, b in itertools.pairwise(layers) for u in a for v in b]
    if skip:
        edges += zip(range(node.size), range(skip * width, node.size), strict=False)
    return FlowNetwork.from_edges(edges, source=source, sink=sink)


def sparse(num_nodes: int, num_edges: int) -> FlowNetwork:
    """Edges between random ends."""
    edges = np.random.default_rng(0).integers(0, num_nodes, (num_edges, 2))
    return FlowNetwork.from_edges(map(tuple, edges), source=0, sink=num_nodes - 1)


GRAPHS: dict[str, Callable[[], Case]] = {
    "chain 10": lambda: Case(chain(10, 8)),
    "chain 50": lambda: Case(chain(50, 8)),
    "chain 200": lambda: Case(chain(200, 8)),
    "chain 1000": lambda: Case(chain(1000, 8)),
    "residual 50": lambda: Case(residual(50, 3)),
    "4 x 4": lambda: Case(layered(4, 4), is_layered=True),
    "sparse n=20 m=60": lambda: Case(sparse(20, 60)),
    "10 x 8": lambda: Case(layered(10, 8), is_layered=True),
    "20 x 16": lambda: Case(layered(20, 16), is_layered=True),
    "50 x 16": lambda: Case(layered(50, 16), is_layered=True),
    "50 x 32": lambda: Case(layered(50, 32), is_layered=True),
    "50 x 32 with skips": lambda: Case(layered(50, 32, skip=3), is_layered=True),
    "sparse n=2000 m=10000": lambda: Case(sparse(2000, 10000)),
}

# What a family has at about so many nodes.
FAMILIES: dict[str, Callable[[int], Case]] = {
    "chain of layers": lambda size: Case(chain(size - 1, 8)),
    "layered": lambda size: Case(layered(max(2, size // 16), 16), is_layered=True),
    "layered with skips": lambda size: Case(layered(max(4, size // 16), 16, skip=3), True),
    "sparse": lambda size: Case(sparse(size, 5 * size)),
}


def draw_capacities(case: Case, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Capacities uniform in [0.1, 1], with wide edges at the ends of a layered graph.

    Args:
        case: the graph.
        shape: of the batch.

    Returns:
        f64[*shape, num_edges].
    """
    network = case.network
    capacities = np.random.default_rng(1).uniform(0.1, 1, (*shape, network.num_edges))
    if not case.is_layered:
        return capacities
    tails, heads = np.array(network.tails), np.array(network.heads)
    is_end = (tails == network.source) | (heads == network.sink)
    return np.where(is_end, np.sqrt(network.num_edges), capacities)


def drifting(case: Case, length: int) -> np.ndarray:
    """Capacities that change by some `DRIFT` from solve to solve; f64[length, num_edges]."""
    steps = np.random.default_rng(2).standard_normal((length, case.network.num_edges))
    return draw_capacities(case) * np.exp(DRIFT * np.cumsum(steps, axis=0))
