"""Backpropagation through the whole trajectory: the baseline, exact where nothing is chaotic."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from pfn_optax.dynamics.gradients import batch_means, segments
from pfn_optax.dynamics.gradients.result import Estimate, GradientStatus
from pfn_optax.dynamics.gradients.segments import Plan
from pfn_optax.dynamics.gradients.system import System


def backprop(
    system: System, params: Any, start: jax.Array, drives: Any, plan: Plan, weight: Any
) -> Estimate:
    """Derivative of the average over this trajectory, by reverse mode with checkpoints.

    Args:
        system: the problem.
        params: where.
        start: f[n].
        drives: leaves [K, L, ...].
        plan: of the cut.
        weight: number of a step -> the weight of its objective, of mean 1 over all steps.
    """
    run = segments.run(lambda x, drive, _: system.advance(params, x, drive), start, drives, plan)

    def pull(carry, at):
        cotangent, total = carry
        x, drive, index = at
        back = jax.vjp(lambda p, x: system.advance(p, x, drive), params, x)[1]
        by_params, cotangent = back((cotangent, weight(index).astype(x.dtype)))
        return (cotangent, batch_means.add(total, by_params)), None

    def segment(carry, at):
        cotangent, batches = carry
        first, drive, number = at
        states = segments.within(partial(system.step, params), first, drive, plan)
        (cotangent, total), _ = jax.lax.scan(
            pull,
            (cotangent, batch_means.accumulator(params)),
            (states, drive, segments.steps_of(number, plan)),
            reverse=True,
        )
        closes = batch_means.closes_batch(number, plan, is_reversed=True)
        return (cotangent, batch_means.append(batches, total, plan.segment_steps, closes)), None

    numbers = jnp.arange(plan.num_segments, dtype=jnp.int32)
    (_, batches), _ = jax.lax.scan(
        segment,
        (jnp.zeros_like(start), batch_means.start(params)),
        (run.starts, drives, numbers),
        reverse=True,
    )
    gradient, error = batch_means.conclude(batch_means.one_group(batches), plan.num_steps, params)
    return Estimate(
        run.values[None],
        gradient,
        error,
        jnp.zeros(0, start.dtype),
        run.state,
        run.first_nonfinite,
        suspect_flat(system, params, run.starts, drives),
    )


def suspect_flat(system: System, params: Any, starts: jax.Array, drives: Any) -> jax.Array:
    """The status OK, or that the derivative by the state is zero along the trajectory."""
    probe = jax.random.normal(jax.random.key(0), starts.shape[1:], starts.dtype)

    def pull(x, drive):
        return jax.vjp(lambda x: system.step(params, x, drive), x)[1](probe)[0]

    return jnp.where(
        segments.is_flat(pull, starts, drives),
        jnp.int32(GradientStatus.ZERO_DERIVATIVE),
        jnp.int32(GradientStatus.OK),
    )
