"""Networks, capacities and an independent oracle for the tests of `pfn_optax.flow`.

Compilation dominates the time of these tests. So there are few networks, each solved in batches;
random topologies come from a complete network in which absent edges have no capacity.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import igraph
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from benchmarks.graphs import chain, layered
from pfn_optax.flow import FlowNetwork, MaxFlow, max_flow
from tests.compilation import UNOPTIMIZED


def complete(num_nodes: int) -> FlowNetwork:
    """Every ordered pair, edges into the source and out of the sink included; self-loops too."""
    edges = [(u, v) for u in range(num_nodes) for v in range(num_nodes)]
    edges += [(0, 1), (1, 2), (0, 1)]
    return FlowNetwork.from_edges(edges, source=0, sink=num_nodes - 1)


def sparse(num_nodes: int, num_edges: int, seed: int) -> FlowNetwork:
    """Edges between random ends."""
    edges = np.random.default_rng(seed).integers(0, num_nodes, (num_edges, 2))
    return FlowNetwork.from_edges(map(tuple, edges), source=0, sink=1, num_nodes=num_nodes)


def series_parallel(num_edges: int, seed: int) -> FlowNetwork:
    """Random edges of a two-node network, doubled or divided again and again."""
    rng = np.random.default_rng(seed)
    edges, num_nodes = [(0, 1)], 2
    while len(edges) < num_edges:
        i = rng.integers(len(edges))
        tail, head = edges[i]
        if rng.random() < 0.5:
            edges.append((tail, head))
        else:
            edges[i : i + 1] = [(tail, num_nodes), (num_nodes, head)]
            num_nodes += 1
    return FlowNetwork.from_edges(edges, source=0, sink=1)


NETWORKS: dict[str, FlowNetwork] = {
    "chain": chain(6, 30),
    "layered": layered(5, 4),
    "skips": layered(6, 4, skip=2),
    "complete": complete(7),
    "sparse": sparse(40, 160, seed=3),
    "series_parallel": series_parallel(40, seed=1),
    "disconnected": FlowNetwork.from_edges(
        [(0, 1), (1, 2), (2, 0), (3, 4), (5, 4)], source=0, sink=4, num_nodes=7
    ),
}


def _present(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Keeps from a tenth to all of the edges, a different share in every row."""
    return rng.random(shape) < rng.uniform(0.1, 1, (shape[0], 1))


Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]

CAPACITIES: dict[str, Draw] = {
    "uniform": lambda rng, shape: rng.uniform(0.1, 1, shape),
    "absent": lambda rng, shape: rng.uniform(0.1, 1, shape) * _present(rng, shape),
    "integer": lambda rng, shape: rng.integers(0, 5, shape) * _present(rng, shape),
    "equal": lambda rng, shape: 0.1 * _present(rng, shape),
    "decades": lambda rng, shape: 10 ** rng.uniform(-8, 0, shape) * _present(rng, shape),
    "infinite": lambda rng, shape: np.where(
        rng.random(shape) < 0.15, np.inf, rng.uniform(0.1, 1, shape) * _present(rng, shape)
    ),
}


BATCH = 32  # the one batch size, so that each network is compiled once


def draw(name: str, network: FlowNetwork, seed: int = 0) -> np.ndarray:
    """A batch of capacities, in float32."""
    rng = np.random.default_rng(seed)
    return CAPACITIES[name](rng, (BATCH, network.num_edges)).astype(np.float32)


@functools.cache
def batch_solver(
    network: FlowNetwork, side: Literal["source", "sink"] = "source", *, optimized: bool = False
) -> Callable[[npt.ArrayLike], MaxFlow]:
    """One compiled solver for a batch, flow included; the answer as numpy arrays."""
    solve = jax.jit(
        jax.vmap(lambda c: max_flow(network, c, side=side, return_flow=True)),
        compiler_options=None if optimized else UNOPTIMIZED,
    )
    return lambda capacities: jax.tree.map(np.asarray, solve(jnp.asarray(capacities)))


class Oracle(NamedTuple):
    """What igraph's augmenting solver says, in float64."""

    value: float
    flow: np.ndarray  # f64[num_edges]
    smallest: np.ndarray  # bool[num_nodes], source side nearest the source
    largest: np.ndarray  # bool[num_nodes], source side nearest the sink


def oracle(network: FlowNetwork, capacities: np.ndarray, *, slack: float = 1e-12) -> Oracle:
    """Maximum flow by igraph, both extreme cuts by a search in its residual graph."""
    capacities = np.asarray(capacities, np.float64)
    finite = capacities[np.isfinite(capacities)]
    huge = 10 * (1 + finite.sum())
    clipped = np.where(np.isinf(capacities), huge, capacities)
    edges = list(zip(network.tails, network.heads, strict=True))
    graph = igraph.Graph(network.num_nodes, edges, directed=True)
    answer = graph.maxflow(network.source, network.sink, clipped.tolist())
    flow = np.asarray(answer.flow)
    scale = slack * max(answer.value, np.finfo(np.float64).tiny)
    residual = [e for e, room in zip(edges, clipped - flow, strict=True) if room > scale]
    residual += [(v, u) for (u, v), used in zip(edges, flow, strict=True) if used > scale]
    reach = igraph.Graph(network.num_nodes, residual, directed=True)
    smallest = np.zeros(network.num_nodes, bool)
    smallest[reach.subcomponent(network.source, mode="out")] = True
    largest = np.ones(network.num_nodes, bool)
    largest[reach.subcomponent(network.sink, mode="in")] = False
    value = np.inf if answer.value >= huge else answer.value
    return Oracle(value, flow, smallest, largest)


def cut_of(network: FlowNetwork, source_side: np.ndarray) -> np.ndarray:
    """Edges from the source side to the rest."""
    return source_side[np.array(network.tails, int)] & ~source_side[np.array(network.heads, int)]


def excess_of(network: FlowNetwork, flow: npt.ArrayLike | None) -> np.ndarray:
    """What each node receives less what it sends, in float64."""
    flow = np.asarray(flow, np.float64)
    excess = np.zeros(network.num_nodes)
    np.add.at(excess, np.array(network.heads, int), flow)
    np.subtract.at(excess, np.array(network.tails, int), flow)
    return excess
