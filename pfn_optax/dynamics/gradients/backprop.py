"""Backpropagation through the whole trajectory: the baseline, exact where nothing is chaotic."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from pfn_optax.dynamics.gradients import batch_means, segments
from pfn_optax.dynamics.gradients.result import Estimate, GradientStatus
from pfn_optax.dynamics.gradients.reverse import pull_back
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

    def pull(cotangent, point):
        x, drive, index = point
        back = jax.vjp(lambda p, x: system.advance(p, x, drive), params, x)[1]
        by_params, cotangent = back((cotangent, weight(index).astype(x.dtype)))
        return cotangent, (by_params,)

    def points_of(kept, steps):
        first, drive = kept
        return segments.within(partial(system.step, params), first, drive, plan), drive, steps

    kept = (run.starts, drives)
    batches = pull_back(pull, points_of, kept, jnp.zeros_like(start), params, plan)
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
