"""A sweep of orthonormal columns along a trajectory, and the statistics of their growth.

The recorded steps make blocks of equal length, a block makes intervals, and each interval ends with
a QR decomposition. Loops within loops: what a sweep keeps is one row of growth per block, however
long the blocks are.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from pfn_optax.dynamics.basis import orthonormalise
from pfn_optax.dynamics.status import DynamicsStatus

LEAST_BLOCKS = 16  # what is left of the blocks when correlated ones are joined


class Piece(NamedTuple):
    """Steps in blocks of intervals.

    Attributes:
        blocks: how many blocks.
        intervals: QR decompositions in a block.
        length: steps in an interval.
    """

    blocks: int
    intervals: int
    length: int

    @property
    def num_steps(self) -> int:
        """Steps in all."""
        return self.blocks * self.intervals * self.length

    def shaped(self, inputs: Any, start: int) -> Any:
        """The inputs of these steps, with leading axes (blocks, intervals, length)."""
        stop = start + self.num_steps
        return jax.tree.map(lambda x: x[start:stop].reshape(*self, *x.shape[1:]), inputs)


class Plan(NamedTuple):
    """How a sweep goes.

    Attributes:
        transient: the unrecorded pieces, which come first.
        recorded: blocks of equal length.
        rest: shorter pieces, the last point of the convergence curve.
        time_step: units of time in a step.
    """

    transient: tuple[Piece, ...]
    recorded: Piece
    rest: tuple[Piece, ...]
    time_step: Any

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """All of them, in the order of the sweep."""
        return (*self.transient, self.recorded, *self.rest)

    @property
    def durations(self) -> np.ndarray:
        """Steps up to each point of the convergence curve."""
        rest = sum(piece.num_steps for piece in self.rest)
        block = self.recorded.num_steps // self.recorded.blocks
        return np.cumsum([block] * self.recorded.blocks + [rest] * bool(rest))


def make_plan(
    num_steps: int, num_transient: int, qr_every: int, num_points: int, time_step: Any
) -> Plan:
    """Divides the steps into at most `num_points` blocks, and a shorter one where that is uneven.

    Raises:
        ValueError: if `qr_every`, `num_points` or `time_step` is not positive.
    """
    require_time_step(time_step)
    for name, value in (("qr_every", qr_every), ("num_points", num_points)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    recorded = _pieces(num_steps, qr_every, num_points)
    return Plan(_pieces(num_transient, qr_every, 1), recorded[0], recorded[1:], time_step)


def require_time_step(time_step: Any) -> None:
    """Checks that a time step is positive, where it is known.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(time_step, Tracer) and not time_step > 0:
        raise ValueError(f"time_step must be positive, got {time_step}.")


def _pieces(num_steps: int, qr_every: int, num_points: int) -> tuple[Piece, ...]:
    total, rest = divmod(num_steps, qr_every)
    intervals = max(1, -(-total // num_points))
    blocks, left = divmod(total, intervals)
    pieces = Piece(blocks, intervals, qr_every), Piece(1, left, qr_every), Piece(1, 1, rest)
    return tuple(piece for piece in pieces if piece.num_steps)


class Columns(NamedTuple):
    """What a sweep carries beside the state.

    Attributes:
        basis: f[n, k], orthonormal after a QR decomposition.
        first_nonfinite: i32[], the first step met whose state or columns were not finite, or -1.
        is_collapsed: bool[], a column became zero.
        is_unresolved: bool[], columns became parallel up to rounding.
    """

    basis: jax.Array
    first_nonfinite: jax.Array
    is_collapsed: jax.Array
    is_unresolved: jax.Array

    @classmethod
    def start(cls, basis: jax.Array) -> "Columns":
        """Nothing has gone wrong yet."""
        return cls(basis, jnp.asarray(-1, jnp.int32), jnp.asarray(False), jnp.asarray(False))

    def moved(self, basis: jax.Array, state: jax.Array, number: jax.Array) -> "Columns":
        """After the step of this number, which gave these columns and this state."""
        is_finite = jnp.isfinite(state).all() & jnp.isfinite(basis).all()
        is_first = ~is_finite & (self.first_nonfinite < 0)
        first = jnp.where(is_first, number, self.first_nonfinite)
        return self._replace(basis=basis, first_nonfinite=first)

    def decomposed(self) -> tuple["Columns", jax.Array]:
        """QR decomposition: the columns after it, and R f[k, k]."""
        basis, r = orthonormalise(self.basis)
        stretch = jnp.diagonal(r)
        known = jax.lax.stop_gradient(r)
        rounding = 8 * jnp.finfo(r.dtype).eps * jnp.linalg.norm(known, axis=0)
        columns = self._replace(
            basis=basis,
            is_collapsed=self.is_collapsed | (stretch == 0).any(),
            is_unresolved=self.is_unresolved | (jnp.diagonal(known) < rounding).any(),
        )
        return columns, r

    def orthonormal(self) -> tuple["Columns", jax.Array]:
        """QR decomposition: the columns after it, and their log growth f[k]."""
        columns, r = self.decomposed()
        return columns, jnp.log(jnp.diagonal(r))

    @property
    def status(self) -> jax.Array:
        """A `DynamicsStatus`, i32[]."""
        return jnp.select(
            [self.first_nonfinite >= 0, self.is_collapsed, self.is_unresolved],
            [DynamicsStatus.NONFINITE, DynamicsStatus.COLLAPSED, DynamicsStatus.UNRESOLVED],
            DynamicsStatus.FINISHED,
        ).astype(jnp.int32)


class Statistics(NamedTuple):
    """Of the growth in blocks.

    Attributes:
        exponents: f[k], growth per unit of time.
        standard_error: f[k].
        running: f[num_points, k], the exponents up to each time.
        times: f[num_points].
    """

    exponents: jax.Array
    standard_error: jax.Array
    running: jax.Array
    times: jax.Array


def recorded_growth(plan: Plan, growth: list[jax.Array]) -> jax.Array:
    """One row for each point of the convergence curve, from the rows of each piece."""
    blocks, *rest = growth[len(plan.transient) :]
    row = [functools.reduce(jnp.add, rest)] if rest else []
    return jnp.concatenate([blocks, *row])


def statistics(growth: jax.Array, plan: Plan) -> Statistics:
    """Means and errors of the log growth f[num_points, k] in the blocks of a plan."""
    time_step = jnp.asarray(plan.time_step, growth.dtype)
    times = jnp.asarray(plan.durations, growth.dtype) * time_step
    running = jnp.cumsum(growth, axis=0) / times[:, None]
    error = standard_error(growth[: plan.recorded.blocks] / times[0])
    return Statistics(running[-1], error, running, times)


def standard_error(rates: jax.Array) -> jax.Array:
    """Standard error of the mean of a correlated series.

    The series is averaged over pairs, again and again: as long as neighbours are correlated the
    error estimate grows with it, and the largest counts. That is a little too much for independent
    blocks, and too much where the growth of one block makes up for that of another.

    Args:
        rates: f[num_blocks, k].

    Returns:
        f[k]; infinite of a single block, and where the mean is.

    Reference:
        Flyvbjerg & Petersen 1989, "Error estimates on averages of correlated data".
    """
    error = jnp.zeros(rates.shape[1], rates.dtype)
    is_known = jnp.isfinite(rates).all(axis=0) & (len(rates) > 1)
    rates = jnp.where(is_known[None, :], rates, 0)
    while len(rates) > 1:
        error = jnp.maximum(error, jnp.std(rates, axis=0, ddof=1) / len(rates) ** 0.5)
        if len(rates) < 2 * LEAST_BLOCKS:
            break
        even = len(rates) // 2 * 2
        rates = (rates[:even:2] + rates[1:even:2]) / 2
    return jnp.where(is_known, error, jnp.inf)
