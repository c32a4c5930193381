"""What a maximum flow costs on one graph: compiled, in a call, and within a compiled loop."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.graphs import Case, draw_capacities, drifting
from benchmarks.peers import PREPARE, ortools_loop
from benchmarks.timing import Solver, interleaved_medians, median_milliseconds
from pfn_optax.flow import FlowNetwork, MaxFlow, WarmStart, max_flow
from pfn_optax.flow.layers import form_of
from pfn_optax.flow.reduce import reduction_of

LOOP_MILLISECONDS = 300
SHORTEST_LOOP, LONGEST_LOOP = 16, 200  # solves


class Program(NamedTuple):
    """What it takes to have the compiled solver of a network.

    Attributes:
        trace_seconds: from the network to a lowered program, its reduction included.
        compile_seconds: XLA's part.
        static_bytes: arrays that describe the network: reduction, and form of the core.
        xla_bytes: temporary buffers, arguments and outputs of a solve.
    """

    trace_seconds: float
    compile_seconds: float
    static_bytes: int
    xla_bytes: int


class Loop(NamedTuple):
    """Solves one after the other, each with other capacities.

    Attributes:
        num_solves: how many make a loop.
        milliseconds: per solve: "ours", "OR-Tools", and on layered graphs "ours, warm".
        accepted: share of the warm solves that took no rounds; None if the graph is not layered.
    """

    num_solves: int
    milliseconds: dict[str, float]
    accepted: float | None


def program(network: FlowNetwork) -> Program:
    """Compiles the solver; the first for this network in this process, or tracing looks cheap."""
    start = time.perf_counter()
    lowered = jax.jit(lambda c: max_flow(network, c)).lower(
        jax.ShapeDtypeStruct((network.num_edges,), jnp.float32)
    )
    traced = time.perf_counter()
    compiled = lowered.compile()
    compile_seconds = time.perf_counter() - traced

    reduction = reduction_of(network)
    leaves = jax.tree.leaves((reduction, form_of(reduction.core)))
    memory: Any = compiled.memory_analysis()
    return Program(
        trace_seconds=traced - start,
        compile_seconds=compile_seconds,
        static_bytes=sum(leaf.nbytes for leaf in leaves if isinstance(leaf, np.ndarray)),
        xla_bytes=memory.temp_size_in_bytes
        + memory.argument_size_in_bytes
        + memory.output_size_in_bytes,
    )


def calls(case: Case, repeats: int) -> dict[str, float]:
    """Times one call of each solver that is installed; milliseconds."""
    capacities = draw_capacities(case)
    solvers = {"ours": prepare_ours(case.network, capacities)}
    for name, prepare in PREPARE.items():
        try:
            prepared = prepare(case.network, capacities)
        except ImportError:
            continue
        if prepared is not None:
            solvers[name] = prepared
    return median_milliseconds(solvers, repeats)


def prepare_ours(network: FlowNetwork, capacities: np.ndarray) -> Solver:
    """The compiled solver on a device array."""
    solve, array = jax.jit(lambda c: max_flow(network, c)), jnp.asarray(capacities, jnp.float32)
    jax.block_until_ready(solve(array))
    return lambda: lambda: jax.block_until_ready(solve(array)).value


def loop(case: Case, repeats: int, *, call_milliseconds: float) -> Loop:
    """Times loops of solves; checks that they agree on the values.

    Args:
        case: the graph.
        repeats: timed loops of each kind; the median counts.
        call_milliseconds: what a call takes, to choose how many solves make a loop.

    Returns:
        What a solve takes within a loop.
    """
    num_solves = math.ceil(LOOP_MILLISECONDS / call_milliseconds)
    num_solves = min(max(num_solves, SHORTEST_LOOP), LONGEST_LOOP)
    capacities = draw_capacities(case, (num_solves,))
    functions: dict[str, Callable[[], Any]] = {"ours": _cold(case.network, capacities)}
    try:
        functions["OR-Tools"] = ortools_loop(case.network, capacities)
    except ImportError:
        pass
    else:
        np.testing.assert_allclose(
            functions["OR-Tools"](), functions["ours"]().value, rtol=1e-4, atol=1e-4
        )
    accepted = None
    if case.is_layered:
        functions["ours, warm"] = _warm(case.network, drifting(case, num_solves))
        accepted = float((functions["ours, warm"]().rounds == 0).mean())
    seconds = interleaved_medians(functions, repeats)
    milliseconds = {name: 1e3 * taken / num_solves for name, taken in seconds.items()}
    return Loop(num_solves, milliseconds, accepted)


def _cold(network: FlowNetwork, capacities: np.ndarray) -> Callable[[], MaxFlow]:
    """Solves from scratch, all in one compiled loop; keeps all answers."""
    array = jnp.asarray(capacities, jnp.float32)
    solve = jax.jit(lambda array: jax.lax.map(lambda c: max_flow(network, c), array))
    return lambda: solve(array)


def _warm(network: FlowNetwork, capacities: np.ndarray) -> Callable[[], MaxFlow]:
    """Starts each solve from the one before, the first from a solve of the same capacities."""
    array = jnp.asarray(capacities, jnp.float32)

    def step(warm: WarmStart | None, c: jax.Array) -> tuple[WarmStart | None, MaxFlow]:
        answer = max_flow(network, c, warm=warm)
        return answer.warm, answer._replace(warm=None)

    solve = jax.jit(lambda warm, array: jax.lax.scan(step, warm, array))
    start = max_flow(network, array[0], warm=WarmStart.zeros(network)).warm
    return lambda: solve(start, array)[1]
