"""The established solvers of maximum flow, each on a graph in its native form."""

import importlib
from collections.abc import Callable

import numpy as np

from benchmarks.timing import Solver
from pfn_optax.flow import FlowNetwork

INTEGER_SCALE = 10**6
NETWORKX_LIMIT = 3000  # edges


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


def ortools_loop(network: FlowNetwork, capacities: np.ndarray) -> Callable[[], np.ndarray]:
    """Solves with one capacity array after the other on a graph that is kept; their values."""
    module = importlib.import_module("ortools.graph.python.max_flow")
    integers = to_integers(capacities)
    solver = module.SimpleMaxFlow()
    arcs = solver.add_arcs_with_capacity(
        np.array(network.tails), np.array(network.heads), integers[0]
    )

    def solve(row: np.ndarray) -> int:
        solver.set_arcs_capacity(arcs, row)
        solver.solve(network.source, network.sink)
        solver.get_source_side_min_cut()
        return solver.optimal_flow()

    return lambda: np.array([solve(row) for row in integers]) / INTEGER_SCALE


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
    "scipy": prepare_scipy,
    "OR-Tools": prepare_ortools,
    "igraph": prepare_igraph,
    "PyMaxflow": prepare_pymaxflow,
    "networkx": prepare_networkx,
}


def to_integers(capacities: np.ndarray) -> np.ndarray:
    """Capacities for solvers that take no floats."""
    return np.rint(capacities * INTEGER_SCALE).astype(np.int64)
