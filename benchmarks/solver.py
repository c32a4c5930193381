"""Maximum flow: this package beside the established solvers, in one process.

Run as `python -m benchmarks.solver [--json PATH] [--repeats N] [--only NAME ...]`.

Timed in two ways, each from capacities to a minimum cut, with all solvers in turns; the median of
the turns is reported. Building a graph in a solver's native form is not timed.

A call. For solvers whose graph object is consumed or carries the capacities (OR-Tools, PyMaxflow),
setting the capacities is outside the clock too.

* ours: the jitted `max_flow`, from a capacity array on the device to all outputs ready
  (`block_until_ready`): value, cut, source side, certificate and uniqueness. The dispatch of a
  Python call is in the clock.
* scipy: `scipy.sparse.csgraph.maximum_flow` on int32 capacities (it takes no floats), which returns
  a flow but no cut. Parallel edges are summed beforehand.
* OR-Tools: `SimpleMaxFlow.solve` on int64 capacities, and its cut.
* igraph: `Graph.mincut` on floats. PyMaxflow: `GraphFloat.maxflow` (float64).
* networkx: `minimum_cut` on floats, on small graphs only.

In a loop, per solve: as an optimizer uses it, with other capacities at every solve.

* ours: a compiled loop (`jax.lax.map`) over the rows of a capacity array on the device, to all
  outputs of all solves.
* OR-Tools, its fair peer: a Python loop over the same rows, converted to int64 beforehand, on a
  graph that is kept: `set_arcs_capacity`, `solve`, `get_source_side_min_cut`, `optimal_flow`.
* ours, warm, on layered graphs: a compiled loop (`jax.lax.scan`) that carries `MaxFlow.warm` over
  capacities that drift by 1% from solve to solve. A solve is accepted if it takes no rounds; each
  of the others pays for its first-order steps and then for a solve from scratch.

Capacities are uniform in [0.1, 1]; the edges that join a layered graph to its ends are wide, so
that the cut runs between layers, as in a unit graph. Integer solvers get them times 10^6, rounded.
"""

import argparse
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import tables
from benchmarks.graphs import GRAPHS, draw_capacities
from benchmarks.solves import calls, loop, program
from benchmarks.timing import interleaved_medians
from pfn_optax.flow import max_flow
from pfn_optax.flow.reduce import reduction_of

BATCH = 8


class Row(NamedTuple):
    """Measurements on one graph."""

    graph: str
    num_nodes: int
    num_edges: int
    num_core_edges: int  # left by the series-parallel reduction
    milliseconds: dict[str, float]  # of a call, by solver
    loop_solves: int
    loop_milliseconds: dict[str, float]  # per solve in a loop, by solver
    accepted: float | None  # share of the warm solves that took no rounds
    rounds: int
    compile_seconds: float
    batch_milliseconds: float  # per solve, in a vmapped batch of 8
    bytes_per_edge: float  # static arrays: reduction, and form of the core


def measure(name: str, repeats: int) -> Row:
    """Measures everything on one graph."""
    case = GRAPHS[name]()
    network = case.network
    compiled = program(network)
    milliseconds = calls(case, repeats)
    in_loop = loop(case, repeats, call_milliseconds=milliseconds["ours"])

    batch = jnp.asarray(draw_capacities(case, (BATCH,)), jnp.float32)
    solve = jax.jit(jax.vmap(lambda c: max_flow(network, c)))
    batched = interleaved_medians({"ours": lambda: solve(batch)}, repeats)["ours"]
    return Row(
        graph=name,
        num_nodes=network.num_nodes,
        num_edges=network.num_edges,
        num_core_edges=reduction_of(network).core.num_edges,
        milliseconds=milliseconds,
        loop_solves=in_loop.num_solves,
        loop_milliseconds=in_loop.milliseconds,
        accepted=in_loop.accepted,
        rounds=int(max_flow(network, jnp.asarray(draw_capacities(case), jnp.float32)).rounds),
        compile_seconds=compiled.compile_seconds,
        batch_milliseconds=1e3 * batched / BATCH,
        bytes_per_edge=compiled.static_bytes / network.num_edges,
    )


def main() -> None:
    """Measures, prints and optionally writes the tables."""
    parser = argparse.ArgumentParser(description="Times maximum-flow solvers.")
    parser.add_argument("--json", metavar="PATH", help="also write the measurements there")
    parser.add_argument("--repeats", type=int, default=9, help="turns per solver")
    parser.add_argument("--only", nargs="+", choices=GRAPHS, help="measure these graphs only")
    arguments = parser.parse_args()
    rows = [measure(name, arguments.repeats) for name in arguments.only or GRAPHS]
    records = [row._asdict() for row in rows]
    print(tables.solver(records), tables.loop(records), sep="\n\n")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(records, file, indent=2)


if __name__ == "__main__":
    main()
