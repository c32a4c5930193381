r"""Kernel differentiation: nothing is propagated, so nothing explodes.

A change of the parameters moves the mean of every noisy step,
:math:`x_{n+1} = f(x_n) + s \xi_n`, and with it the probability of where the trajectory went anyway:

.. math:: \frac{dJ}{dg} = \Big\langle \varphi_g + \frac{f_g \cdot \xi_n}{s}
          \sum_{k=0}^{W} \big(\varphi(x_{n+1+k}) - \bar\varphi\big) \Big\rangle

and, where s depends on the parameters, :math:`s_g (\xi_n^2 - 1) / s` beside
:math:`f_g \xi_n / s`. This is the score-function (likelihood-ratio, REINFORCE) estimator.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pfn_optax.dynamics.gradients import batch_means, segments
from pfn_optax.dynamics.gradients.batch_means import BatchMeans
from pfn_optax.dynamics.gradients.ensemble import Ensemble
from pfn_optax.dynamics.gradients.noise import inverse
from pfn_optax.dynamics.gradients.segments import Run


def kernel(
    ensemble: Ensemble,
    params: Any,
    key: jax.Array,
    run: Run,
    drives: Any,
    weights: jax.Array,
    *,
    weight: Callable[[jax.Array], jax.Array],
) -> BatchMeans:
    """The gradient of one group of replicas, forward in time.

    Args:
        ensemble: the group.
        params: where.
        key: of the noise.
        run: of the group.
        drives: leaves [K, L, ...].
        weights: f[K, L, r], the sums of the objective that each step's noise is to answer for.
        weight: number of a step -> weight of its objective.
    """
    plan, share = ensemble.plan, 1 / ensemble.num_replicas

    def one(carry, at):
        x, total = carry
        drive, step, sums = at
        noise = ensemble.noise(key, step)
        (mean, scale), back = jax.vjp(lambda p: ensemble.mean_and_scale(p, x, drive), params)
        score = share * sums[:, None] * inverse(scale)
        (by_law,) = back((score * noise, score * (noise**2 - 1)))
        x = mean + scale * noise
        values, back = jax.vjp(lambda p: ensemble.objective(p, x, drive), params)
        (by_objective,) = back(jnp.full_like(values, share) * weight(step).astype(x.dtype))
        return (x, batch_means.add(batch_means.add(total, by_law), by_objective)), None

    def segment(batches, at):
        start, drive, sums, number = at
        (_, total), _ = jax.lax.scan(
            one,
            (start, batch_means.accumulator(params)),
            (drive, segments.steps_of(number, plan), sums),
        )
        closes = batch_means.closes_batch(number, plan, is_reversed=False)
        return batch_means.append(batches, total, plan.segment_steps, closes), None

    numbers = jnp.arange(plan.num_segments, dtype=jnp.int32)
    return jax.lax.scan(segment, batch_means.start(params), (run.starts, drives, weights, numbers))[
        0
    ]


def hides_parameters(
    ensemble: Ensemble, params: Any, x: jax.Array, drive: Any, key: jax.Array
) -> jax.Array:
    """Whether parameters act where there is no noise, at one state f[n]; bool[]."""
    (mean, scale), back = jax.vjp(
        lambda p: (ensemble.system.step(p, x, drive), ensemble.scale(p, x)), params
    )
    probe = jnp.where(scale == 0, jax.random.normal(key, mean.shape, mean.dtype), 0)
    (seen,) = back((probe, jnp.zeros_like(scale)))
    return jnp.any(jnp.stack([jnp.any(leaf != 0) for leaf in jax.tree.leaves(seen)]))
