"""What a diagnosis may cost: seconds and bytes, asked for before anything runs."""

import math
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


class Skip(Exception):  # noqa: N818 - it is no error
    """Raised by a check that cannot be run, or not in full, with the reason."""


class DoesNotApply(Skip):
    """Raised by a check that asks nothing of such a network or such data: nothing is missed."""


class Budget:
    """Seconds and bytes, and what of the seconds is gone.

    Programs are compiled through it: their memory is known before they run, and the first of them
    tells what the next will take.

    Attributes:
        max_seconds: for everything.
        max_bytes: of memory that one program may take.
        compile_seconds: what the longest compilation took so far; 0 before the first.
    """

    def __init__(self, max_seconds: float, max_bytes: int | None):
        """Starts the clock."""
        self.max_seconds = max_seconds
        self.max_bytes: int = available_bytes() if max_bytes is None else max_bytes
        self.compile_seconds: float = 0.0
        self._start = time.perf_counter()

    @property
    def elapsed(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._start

    @property
    def remaining(self) -> float:
        """Seconds left; negative when there are none."""
        return self.max_seconds - self.elapsed

    def require(self, seconds: float, what: str) -> None:
        """Asks for time.

        Raises:
            Skip: if less is left.
        """
        if seconds > self.remaining:
            raise Skip(
                f"{what} would take about {seconds:.0f} s, and {max(self.remaining, 0):.0f} s are "
                f"left of {self.max_seconds:.0f}: raise max_seconds."
            )

    def compile(
        self, function: Callable[..., Any], *args: Any, what: str, num_runs: int = 1
    ) -> Callable[..., Any]:
        """Compiles a function for a few runs.

        Args:
            function: of arrays.
            *args: arguments, or their shapes.
            what: what it is for, to say so when it is skipped.
            num_runs: how often it will run, at most; few are not worth the compiler's optimisation.

        Returns:
            The compiled function.

        Raises:
            Skip: if there is not the time or the memory.
        """
        self.require(self.compile_seconds, f"compiling {what}")
        start = time.perf_counter()
        lowered = jax.jit(function).lower(*args)
        compiled = _compiled(lowered, num_runs)
        self.compile_seconds = max(self.compile_seconds, time.perf_counter() - start)
        num_bytes = _bytes_of(compiled)
        if num_bytes > self.max_bytes:
            raise Skip(
                f"{what} would take {num_bytes / 1e9:.2g} GB, and {self.max_bytes / 1e9:.2g} GB "
                "are allowed: pass a smaller batch, or raise max_bytes."
            )
        self.require(num_runs * _flops_of(compiled) / device_speed(), what)
        return compiled


# Code for few runs: on a CPU, a sixth of the time to compile, and some three times slower.
_QUICK = {"xla_backend_optimization_level": 0}
_FEW = 12


def _compiled(lowered: Any, num_runs: int) -> Any:
    if jax.default_backend() != "cpu" or num_runs > _FEW:
        return lowered.compile()
    return lowered.compile(compiler_options=_QUICK)


def _bytes_of(compiled: Any) -> int:
    """Of temporaries, results and arguments; 0 where the backend does not say."""
    memory = compiled.memory_analysis()
    if memory is None:
        return 0
    return (
        memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        + memory.argument_size_in_bytes
        - memory.alias_size_in_bytes
    )


def _flops_of(compiled: Any) -> float:
    """Operations of one run, loops counted once; 0 where the backend does not say."""
    found = compiled.cost_analysis()
    flops = float(found.get("flops", 0.0)) if isinstance(found, dict) else 0.0
    return flops if math.isfinite(flops) else 0.0


def device_speed() -> float:
    """Returns operations per second, roughly and rather too few, of a matrix product."""
    size = 256
    ones = jnp.ones((size, size), jnp.float32)
    jax.block_until_ready(ones @ ones)
    start = time.perf_counter()
    jax.block_until_ready(ones @ ones)
    return size**3 / max(time.perf_counter() - start, 1e-6)


def available_bytes() -> int:
    """Returns half of the memory of the machine, or what is free of the accelerator's."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return int(statistics["bytes_limit"] - statistics.get("bytes_in_use", 0))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
