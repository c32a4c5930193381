"""Maximum flow: this package beside the established solvers, in one process.

Run as `python -m benchmarks.solver [--json PATH] [--repeats N] [--only NAME ...]`.

What is timed. One solve, from capacities to a minimum cut, on a graph that is already built in
each solver's native form; building it is not timed. For solvers whose graph object is consumed or
carries the capacities (OR-Tools, PyMaxflow), setting the capacities is outside the clock too.

* ours: the jitted `max_flow`, from a capacity array on the device to all outputs ready
  (`block_until_ready`): value, cut, source side, certificate and uniqueness.
* scipy: `scipy.sparse.csgraph.maximum_flow` on int32 capacities (it takes no floats), which returns
  a flow but no cut. Parallel edges are summed beforehand.
* OR-Tools: `SimpleMaxFlow.solve` on int64 capacities.
* igraph: `Graph.mincut` on floats. PyMaxflow: `GraphFloat.maxflow` (float64).
* networkx: `minimum_cut` on floats, on small graphs only.

Capacities are uniform in [0.1, 1]; the edges that join a layered graph to its ends are wide, so
that the cut runs between layers, as in a unit graph. Integer solvers get them times 10^6,
rounded. The solvers take turns, so that a busy moment of the machine hits all of them; a turn is as
many solves as fit into some milliseconds, so that none is timed on the caches and threads that
another left behind; the median of the turns is reported.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import tables
from pfn_optax.flow import FlowNetwork, max_flow
from pfn_optax.flow.layers import form_of
from pfn_optax.flow.reduce import reduction_of

INTEGER_SCALE = 10**6
NETWORKX_LIMIT = 3000  # edges
TURN_MILLISECONDS = 10

Solver = Callable[[], Callable[[], Any]]  # prepares one run, which is then timed


class Row(NamedTuple):
    """Measurements on one graph."""

    graph: str
    num_nodes: int
    num_edges: int
    num_core_edges: int  # left by the series-parallel reduction
    milliseconds: dict[str, float]  # by solver
    rounds: int
    compile_seconds: float
    batch_milliseconds: float  # per solve, in a vmapped batch of 8
    bytes_per_edge: float  # static arrays: reduction, and form of the core


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


GRAPHS: dict[str, Callable[[], FlowNetwork]] = {
    "chain 10": lambda: chain(10, 8),
    "chain 50": lambda: chain(50, 8),
    "chain 200": lambda: chain(200, 8),
    "chain 1000": lambda: chain(1000, 8),
    "residual 50": lambda: residual(50, 3),
    "4 x 4": lambda: layered(4, 4),
    "sparse n=20 m=60": lambda: sparse(20, 60),
    "10 x 8": lambda: layered(10, 8),
    "20 x 16": lambda: layered(20, 16),
    "50 x 16": lambda: layered(50, 16),
    "50 x 32": lambda: layered(50, 32),
    "50 x 32 with skips": lambda: layered(50, 32, skip=3),
    "sparse n=2000 m=10000": lambda: sparse(2000, 10000),
}


def draw_capacities(name: str, network: FlowNetwork, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform capacities, with wide edges at the ends of a layered graph."""
    capacities = np.random.default_rng(1).uniform(0.1, 1, (*shape, network.num_edges))
    if " x " not in name:
        return capacities
    tails, heads = np.array(network.tails), np.array(network.heads)
    is_end = (tails == network.source) | (heads == network.sink)
    return np.where(is_end, np.sqrt(network.num_edges), capacities)


def prepare_ours(network: FlowNetwork, capacities: np.ndarray) -> Solver:
    """The compiled solver on a device array."""
    solve, array = jax.jit(lambda c: max_flow(network, c)), jnp.asarray(capacities, jnp.float32)
    jax.block_until_ready(solve(array))
    return lambda: lambda: jax.block_until_ready(solve(array)).value


def prepare_scipy(network: FlowNetwork, capacities: np.ndarray) -> Solver:
    """A sparse matrix of integers."""
    sparse_module = importlib.import_module("scipy.sparse")
    csgraph = importlib.import_module("scipy.sparse.csgraph")
    entries = (to_integers(capacities).astype(np.int32), (network.tails, network.heads))
    matrix = sparse_module.csr_matrix(entries, shape=(network.num_nodes,) * 2)
    matrix.sum_duplicates()

    def solve():
        return csgraph.maximum_flow(matrix, network.source, network.sink).flow_value

    return lambda: lambda: solve() / INTEGER_SCALE


def prepare_ortools(network: FlowNetwork, capacities: np.ndarray) -> Solver:
    """A graph of its own; solving again from scratch needs the capacities set again."""
    module = importlib.import_module("ortools.graph.python.max_flow")
    arguments = (np.array(network.tails), np.array(network.heads), to_integers(capacities))

    def prepare():
        solver = module.SimpleMaxFlow()
        solver.add_arcs_with_capacity(*arguments)

        def run():
            solver.solve(network.source, network.sink)
            solver.get_source_side_min_cut()
            return solver.optimal_flow() / INTEGER_SCALE

        return run

    return prepare


def prepare_igraph(network: FlowNetwork, capacities: np.ndarray) -> Solver:
    """A directed graph and a list of floats."""
    module = importlib.import_module("igraph")
    edges = list(zip(network.tails, network.heads, strict=True))
    graph, floats = module.Graph(network.num_nodes, edges, directed=True), capacities.tolist()
    return lambda: lambda: graph.mincut(network.source, network.sink, floats).value


def prepare_pymaxflow(network: FlowNetwork, capacities: np.ndarray) -> Solver:
    """A graph that a solve consumes, so it is built anew before each."""
    module = importlib.import_module("maxflow")
    ends = (network.source, network.sink)
    inner = [
        (u, v, c)
        for u, v, c in zip(network.tails, network.heads, capacities.tolist(), strict=True)
        if u not in ends and v not in ends
    ]
    from_source, into_sink = np.zeros((2, network.num_nodes))
    tails, heads = np.array(network.tails), np.array(network.heads)
    leaves = (tails == network.source) & (heads != network.sink)
    enters = (heads == network.sink) & (tails != network.source)
    direct = capacities[(tails == network.source) & (heads == network.sink)].sum()
    np.add.at(from_source, heads[leaves], capacities[leaves])
    np.add.at(into_sink, tails[enters], capacities[enters])

    def prepare():
        graph = module.GraphFloat(network.num_nodes, len(inner))
        graph.add_nodes(network.num_nodes)
        for tail, head, capacity in inner:
            graph.add_edge(tail, head, capacity, 0)
        for node in np.flatnonzero(from_source + into_sink):
            graph.add_tedge(node, from_source[node], into_sink[node])
        return lambda: graph.maxflow() + direct

    return prepare


def prepare_networkx(network: FlowNetwork, capacities: np.ndarray) -> Solver | None:
    """A graph of dictionaries; left out where it would take long."""
    if network.num_edges > NETWORKX_LIMIT:
        return None
    module = importlib.import_module("networkx")
    graph = module.DiGraph()
    graph.add_nodes_from(range(network.num_nodes))
    for tail, head, capacity in zip(network.tails, network.heads, capacities, strict=True):
        known = graph.get_edge_data(tail, head, {"capacity": 0.0})["capacity"]
        graph.add_edge(tail, head, capacity=known + float(capacity))
    return lambda: lambda: module.minimum_cut(graph, network.source, network.sink)[0]


PREPARE: dict[str, Callable[[FlowNetwork, np.ndarray], Solver | None]] = {
    "ours": prepare_ours,
    "scipy": prepare_scipy,
    "OR-Tools": prepare_ortools,
    "igraph": prepare_igraph,
    "PyMaxflow": prepare_pymaxflow,
    "networkx": prepare_networkx,
}


def to_integers(capacities: np.ndarray) -> np.ndarray:
    """Capacities for solvers that take no floats."""
    return np.rint(capacities * INTEGER_SCALE).astype(np.int64)


def median_milliseconds(solvers: dict[str, Solver], repeats: int) -> dict[str, float]:
    """Times the solvers in turns; checks that all agree on the value."""
    times: dict[str, list[float]] = {name: [] for name in solvers}
    answers = {name: prepare()() for name, prepare in solvers.items()}
    values = {name: float(answer) for name, answer in answers.items()}
    np.testing.assert_allclose(list(values.values()), values["ours"], rtol=1e-4)
    num_solves = dict.fromkeys(solvers, 1)
    for _ in range(repeats):
        for name, prepare in solvers.items():
            runs = [prepare() for _ in range(num_solves[name])]
            start = time.perf_counter()
            for run in runs:
                run()
            taken = 1e3 * (time.perf_counter() - start) / len(runs)
            times[name].append(taken)
            num_solves[name] = min(200, max(1, round(TURN_MILLISECONDS / taken)))
    return {name: statistics.median(series) for name, series in times.items()}


def measure(name: str, repeats: int) -> Row:
    """Measures everything on one graph."""
    network = GRAPHS[name]()
    capacities = draw_capacities(name, network, ())
    array = jnp.asarray(capacities, jnp.float32)

    lowered = jax.jit(lambda c: max_flow(network, c)).lower(array)
    start = time.perf_counter()
    lowered.compile()
    compile_seconds = time.perf_counter() - start

    solvers = {}
    for solver, prepare in PREPARE.items():
        try:
            prepared = prepare(network, capacities)
        except ImportError:
            continue
        if prepared is not None:
            solvers[solver] = prepared
    milliseconds = median_milliseconds(solvers, repeats)

    batch = jnp.asarray(draw_capacities(name, network, (8,)), jnp.float32)
    solve = jax.jit(jax.vmap(lambda c: max_flow(network, c)))
    jax.block_until_ready(solve(batch))
    batched = {"ours": lambda: lambda: jax.block_until_ready(solve(batch)).value.sum()}

    reduction = reduction_of(network)
    leaves = jax.tree.leaves((reduction, form_of(reduction.core)))
    arrays = [leaf for leaf in leaves if isinstance(leaf, np.ndarray)]
    return Row(
        graph=name,
        num_nodes=network.num_nodes,
        num_edges=network.num_edges,
        num_core_edges=reduction.core.num_edges,
        milliseconds=milliseconds,
        rounds=int(max_flow(network, array).rounds),
        compile_seconds=compile_seconds,
        batch_milliseconds=median_milliseconds(batched, repeats)["ours"] / len(batch),
        bytes_per_edge=sum(a.nbytes for a in arrays) / network.num_edges,
    )


def main() -> None:
    """Measures, prints and optionally writes the table."""
    parser = argparse.ArgumentParser(description="Times maximum-flow solvers.")
    parser.add_argument("--json", metavar="PATH", help="also write the measurements there")
    parser.add_argument("--repeats", type=int, default=9, help="turns per solver")
    parser.add_argument("--only", nargs="+", choices=GRAPHS, help="measure these graphs only")
    arguments = parser.parse_args()
    rows = [measure(name, arguments.repeats) for name in arguments.only or GRAPHS]
    records = [row._asdict() for row in rows]
    print(tables.solver(records))
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(records, file, indent=2)


if __name__ == "__main__":
    main()
