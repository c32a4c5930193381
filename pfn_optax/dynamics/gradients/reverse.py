"""The way back over a trajectory in segments: a cotangent pulled, and what it says summed up."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pfn_optax.dynamics.gradients import batch_means, segments
from pfn_optax.dynamics.gradients.batch_means import BatchMeans
from pfn_optax.dynamics.gradients.segments import Plan


def pull_back(
    pull: Callable[[jax.Array, Any], tuple[jax.Array, tuple[Any, ...]]],
    points_of: Callable[[Any, jax.Array], Any],
    kept: Any,
    cotangent: jax.Array,
    params: Any,
    plan: Plan,
) -> BatchMeans:
    """Pulls a cotangent from the end to the start, and sums its terms over the steps.

    Args:
        pull: (cotangent, point) -> the cotangent one step earlier, and terms like the parameters.
        points_of: what was kept of a segment, numbers of its steps i32[L] -> points [L, ...].
        kept: leaves [K, ...].
        cotangent: at the very end.
        params: what terms are like.
        plan: of the cut.

    Returns:
        The sums of the terms, in batches.
    """

    def one(carry, point):
        cotangent, total = carry
        cotangent, terms = pull(cotangent, point)
        return (cotangent, functools.reduce(batch_means.add, terms, total)), None

    def segment(carry, at):
        cotangent, batches = carry
        own, number = at
        (cotangent, total), _ = jax.lax.scan(
            one,
            (cotangent, batch_means.accumulator(params)),
            points_of(own, segments.steps_of(number, plan)),
            reverse=True,
        )
        closes = batch_means.closes_batch(number, plan, is_reversed=True)
        return (cotangent, batch_means.append(batches, total, plan.segment_steps, closes)), None

    numbers = jnp.arange(plan.num_segments, dtype=jnp.int32)
    begin = (cotangent, batch_means.start(params))
    (_, batches), _ = jax.lax.scan(segment, begin, (kept, numbers), reverse=True)
    return batches
