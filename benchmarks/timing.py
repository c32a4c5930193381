"""Medians of functions that take turns, so that a busy moment of the machine hits all of them."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

TURN_MILLISECONDS = 10

Solver = Callable[[], Callable[[], Any]]  # prepares one run, which is then timed


def interleaved_medians(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Times JAX functions, one call a turn, after one that compiles; seconds."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        jax.block_until_ready(function())  # compile
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(samples) for name, samples in times.items()}


def median_milliseconds(solvers: dict[str, Solver], repeats: int) -> dict[str, float]:
    """Times solvers; checks that all agree on the values.

    A turn is as many solves as fit into some milliseconds, so that none is timed on the caches and
    threads that another left behind.
    """
    times: dict[str, list[float]] = {name: [] for name in solvers}
    first, *others = [np.asarray(prepare()(), float) for prepare in solvers.values()]
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-4)
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
