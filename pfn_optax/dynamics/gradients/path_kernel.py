r"""Path kernel: a share of every perturbation becomes a change of probability, the rest goes on.

In :math:`x_{n+1} = f(x_n) + s \xi_n` a perturbation v of :math:`x_n` and one of the parameters move
the mean of :math:`x_{n+1}` by :math:`d = f_x v + f_g`, known before the noise. A share
:math:`\alpha` of d is told by its score, :math:`d \cdot \xi_n / s`, as in kernel differentiation;
the rest is carried along the path, with what moves the noise itself:
:math:`v' = (1 - \alpha) d + \xi_n (s_x v + s_g)`. Backward, with
:math:`\mu = \nu_{n+1} + \varphi_x(x_{n+1})` and the window sum :math:`\Psi` of the centred
objective,

.. math::
    c = (1 - \alpha) \mu + \alpha \Psi_{n+1} \xi_n / s, \quad
    \nu_n = f_x^T c + s_x^T (\xi_n \mu), \quad
    \frac{dJ}{dg} = \langle f_g^T c + s_g^T (\xi_n \mu) + \varphi_g \rangle

Both ways of telling a shift are exact in expectation, so every :math:`\alpha` is unbiased:
0 is backpropagation, 1 is kernel differentiation, and between them a perturbation that a step
stretches by :math:`e^\lambda` stays bounded once :math:`(1 - \alpha) e^\lambda < 1`. For an SDE,
:math:`f = x + F dt`, noise :math:`s \sqrt{dt}` and :math:`\alpha dt` for :math:`\alpha` give, as
dt goes to 0, the adjoint path-kernel equation. Where there is no noise the share is zero.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pfn_optax.dynamics.gradients import segments
from pfn_optax.dynamics.gradients.batch_means import BatchMeans
from pfn_optax.dynamics.gradients.ensemble import Ensemble
from pfn_optax.dynamics.gradients.noise import inverse
from pfn_optax.dynamics.gradients.reverse import pull_back
from pfn_optax.dynamics.gradients.segments import Run


def path_kernel(
    ensemble: Ensemble,
    params: Any,
    key: jax.Array,
    run: Run,
    drives: Any,
    weights: jax.Array,
    *,
    weight: Callable[[jax.Array], jax.Array],
    alpha: Callable[[jax.Array], jax.Array],
) -> BatchMeans:
    """The gradient of one group of replicas, backward in time.

    Args:
        ensemble: the group.
        params: where.
        key: of the noise.
        run: of the group.
        drives: leaves [K, L, ...].
        weights: f[K, L, r], the sums of the objective that each step's noise is to answer for.
        weight: number of a step -> weight of its objective.
        alpha: number of a step -> share that its noise tells.
    """
    plan, share = ensemble.plan, 1 / ensemble.num_replicas
    advance = ensemble.advance(params, key)

    def pull(cotangent, point):
        x, drive, step, sums = point
        noise = ensemble.noise(key, step)
        (mean, scale), back = jax.vjp(lambda p, x: ensemble.mean_and_scale(p, x, drive), params, x)
        values, back_objective = jax.vjp(
            lambda p, x: ensemble.objective(p, x, drive), params, mean + scale * noise
        )
        at_objective = jnp.full_like(values, share) * weight(step).astype(x.dtype)
        by_objective, at_after = back_objective(at_objective)
        at_after = cotangent + at_after
        told = jnp.where(scale == 0, 0, alpha(step).astype(x.dtype))
        score = share * sums[:, None] * noise * inverse(scale)
        by_law, cotangent = back(((1 - told) * at_after + told * score, at_after * noise))
        return cotangent, (by_law, by_objective)

    def points_of(kept, steps):
        start, drive, sums = kept
        states = segments.within(lambda x, at: advance(x, *at)[0], start, (drive, steps), plan)
        return states, drive, steps, sums

    kept = (run.starts, drives, weights)
    return pull_back(pull, points_of, kept, jnp.zeros_like(run.starts[0]), params, plan)
