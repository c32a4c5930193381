"""A trajectory in segments: only their starts are kept, what lies within is computed again."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Plan(NamedTuple):
    """How a trajectory is cut.

    Attributes:
        num_segments: K.
        segment_steps: L; there are K L steps.
        num_batches: batches of consecutive segments, for the standard error.
    """

    num_segments: int
    segment_steps: int
    num_batches: int

    @property
    def num_steps(self) -> int:
        """Number of steps averaged over."""
        return self.num_segments * self.segment_steps

    def batch_of(self, segment: Any) -> Any:
        """The batch that a segment belongs to; sizes differ by one segment at most."""
        return segment * self.num_batches // self.num_segments


def plan_segments(
    num_steps: int, segment_steps: int | None, num_batches: int, longest: int | None = None
) -> Plan:
    """Cuts the steps; by default where memory is least, at about the square root of their number.

    Raises:
        ValueError: if the lengths do not fit.
    """
    if segment_steps is None:
        bound = min(math.isqrt(num_steps), longest or num_steps)
        segment_steps = next(size for size in range(bound, 0, -1) if num_steps % size == 0)
    elif segment_steps < 1 or num_steps % segment_steps:
        raise ValueError(
            f"segment_steps must divide num_steps={num_steps}, got {segment_steps}: change one."
        )
    num_segments = num_steps // segment_steps
    return Plan(num_segments, segment_steps, min(num_batches, num_segments))


class Run(NamedTuple):
    """A trajectory, without most of it.

    Attributes:
        starts: [K, ...], the states that segments start from.
        values: f[K, L, ...], the objective after every step.
        state: the last state.
        first_nonfinite: i32[], the first step with a result that is not finite; K L without one.
    """

    starts: jax.Array
    values: jax.Array
    state: jax.Array
    first_nonfinite: jax.Array


def cut(drives: Any, plan: Plan) -> Any:
    """Gives every leaf the leading axes [K, L]."""
    shape = (plan.num_segments, plan.segment_steps)
    return jax.tree.map(lambda leaf: jnp.reshape(leaf, shape + jnp.shape(leaf)[1:]), drives)


def steps_of(segment: jax.Array, plan: Plan) -> jax.Array:
    """The numbers of the steps of a segment, i32[L]."""
    return segment * plan.segment_steps + jnp.arange(plan.segment_steps, dtype=jnp.int32)


def run(advance: Callable[..., Any], start: jax.Array, drives: Any, plan: Plan) -> Run:
    """Runs the system.

    Args:
        advance: (state, drive, number of the step) -> (state, objective after it).
        start: the first state.
        drives: leaves [K, L, ...].
        plan: of the cut.

    Returns:
        What is kept.
    """

    def one(state, at):
        drive, index = at
        after, value = advance(state, drive, index)
        is_finite = jnp.isfinite(after).all() & jnp.isfinite(value).all()
        return after, (value, jnp.where(is_finite, plan.num_steps, index))

    def segment(state, at):
        drive, number = at
        after, (values, bad) = jax.lax.scan(one, state, (drive, steps_of(number, plan)))
        return after, (state, values, bad.min())

    numbers = jnp.arange(plan.num_segments, dtype=jnp.int32)
    state, (starts, values, bad) = jax.lax.scan(segment, start, (drives, numbers))
    return Run(starts, values, state, bad.min().astype(jnp.int32))


def within(move: Callable[[Any, Any], Any], start: Any, drives: Any, plan: Plan) -> Any:
    """What a segment goes through from its start on, leaves [L, ...], as its drives have them."""
    return jax.lax.scan(
        lambda state, drive: (move(state, drive), state), start, drives, plan.segment_steps
    )[1]


def warm_up(
    advance: Callable[..., Any], start: jax.Array, drives: Any, num_steps: int
) -> tuple[jax.Array, jax.Array]:
    """Runs the transient; returns the state after it, and the first bad step or their number."""
    if not num_steps:
        return start, jnp.int32(0)

    def one(carry, at):
        state, first = carry
        drive, index = at
        after, _ = advance(state, drive, index)
        bad = jnp.where(jnp.isfinite(after).all(), num_steps, index)
        return (after, jnp.minimum(first, bad)), None

    indices = jnp.arange(num_steps, dtype=jnp.int32)
    return jax.lax.scan(one, (start, jnp.int32(num_steps)), (drives, indices))[0]


def is_flat(pull: Callable[[jax.Array, Any], Any], starts: jax.Array, drives: Any) -> jax.Array:
    """Whether the derivative of the step by the state is zero at the start of every segment.

    Args:
        pull: (state, drive) -> a pulled-back random cotangent.
        starts: f[K, ...].
        drives: leaves [K, L, ...].

    Returns:
        bool[].
    """

    def one(at):
        start, drive = at
        return jnp.any(pull(start, jax.tree.map(lambda leaf: leaf[0], drive)) != 0)

    return ~jnp.any(jax.lax.map(one, (starts, drives)))


def window_sums(values: jax.Array, before: int, after: int) -> jax.Array:
    """Sums f[num_steps, ...] over the window from `before` steps back to `after` steps ahead.

    What lies beyond the ends counts as zero.
    """
    length = len(values)
    sums = jnp.concatenate([jnp.zeros_like(values[:1]), jnp.cumsum(values, axis=0)])
    steps = jnp.arange(length)
    return sums[jnp.minimum(steps + after + 1, length)] - sums[jnp.maximum(steps - before, 0)]
