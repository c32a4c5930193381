"""Replicas of a noisy system: run once for the objective, and again with what it weighs."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from pfn_optax.dynamics.gradients import batch_means, segments
from pfn_optax.dynamics.gradients.batch_means import BatchMeans
from pfn_optax.dynamics.gradients.noise import Scale, draw
from pfn_optax.dynamics.gradients.result import Estimate, GradientStatus
from pfn_optax.dynamics.gradients.segments import Plan, Run
from pfn_optax.dynamics.gradients.system import System

Average = Literal["time", "end"]


class Ensemble(NamedTuple):
    """A noisy problem; replicas are rows.

    Attributes:
        system: without the noise.
        scale: standard deviations of the noise.
        plan: of the cut.
        num_replicas: in one group.
    """

    system: System
    scale: Scale
    plan: Plan
    num_replicas: int

    def noise(self, key: jax.Array, step: jax.Array) -> jax.Array:
        """The standard normal draws after a step, f[r, n]."""
        start = self.system.start
        return draw(key, step, (self.num_replicas, start.size), start.dtype)

    def mean_and_scale(self, params: Any, x: jax.Array, drive: Any) -> tuple[jax.Array, jax.Array]:
        """Where a step leads without its noise, and the scale of that: two of f[r, n]."""
        return jax.vmap(lambda x: (self.system.step(params, x, drive), self.scale(params, x)))(x)

    def objective(self, params: Any, x: jax.Array, drive: Any) -> jax.Array:
        """The objective of every replica, f[r]."""
        return jax.vmap(lambda x: self.system.objective(params, x, drive))(x)

    def advance(self, params: Any, key: jax.Array) -> Callable[..., tuple[jax.Array, jax.Array]]:
        """Returns the noisy step, as `segments.run` takes it."""

        def advance(x, drive, step):
            mean, scale = self.mean_and_scale(params, x, drive)
            after = mean + scale * self.noise(key, step)
            return after, self.objective(params, after, drive)

        return advance


Second = Callable[[Ensemble, Any, jax.Array, Run, Any, jax.Array], BatchMeans]
"""(ensemble, params, key, run, drives, weights f[K, L, r]) -> the gradient of a group."""


def estimate(
    second: Second,
    ensemble: Ensemble,
    params: Any,
    drives: tuple[Any, Any],
    *,
    key: jax.Array,
    num_groups: int,
    num_transient: int,
    window: int,
    average: Average,
) -> Estimate:
    """Runs the ensemble, centres the objective, and sums what it weighs.

    Args:
        second: the method.
        ensemble: one group of it.
        params: where.
        drives: of the transient, leaves [num_transient, ...], and of the rest, [K, L, ...].
        key: of the noise.
        num_groups: of replicas, whose gradients are kept apart for the standard error.
        num_transient: steps before.
        window: how many steps later the objective still answers to a step's noise.
        average: over time, or the end alone.

    Returns:
        The estimate; its `suspicion` is OK.
    """
    system, plan = ensemble.system, ensemble.plan
    early, late = jax.vmap(jax.random.split, out_axes=1)(jax.random.split(key, num_groups))
    begin = jnp.tile(system.start, (ensemble.num_replicas, 1))

    def first_pass(early, late):
        x, bad = segments.warm_up(ensemble.advance(params, early), begin, drives[0], num_transient)
        return segments.run(ensemble.advance(params, late), x, drives[1], plan), bad

    run, bad = jax.vmap(first_pass)(early, late)
    values = run.values  # f[groups, K, L, r]
    flat = values.reshape(num_groups, plan.num_steps, ensemble.num_replicas)
    weights = jax.vmap(segments.window_sums, (0, None, None))(
        _centred(flat, average), 0, window
    ).reshape(values.shape)
    batches = jax.vmap(
        lambda key, run, weights: second(ensemble, params, key, run, drives[1], weights)
    )(late, run, weights)
    gradient, error = batch_means.conclude(batches, plan.num_steps, params)
    first = jnp.where(
        bad.min() < num_transient, bad.min(), num_transient + run.first_nonfinite.min()
    )
    return Estimate(
        values.mean(axis=3),
        gradient,
        error,
        jnp.zeros(0, values.dtype),
        run.state[0, 0],
        first,
        jnp.int32(GradientStatus.OK),
    )


def objective_weight(average: Average, num_steps: int) -> Callable[[jax.Array], jax.Array]:
    """Returns the weight of the objective after a step, of mean 1 over the steps."""
    if average == "time":
        return lambda step: jnp.ones_like(step, jnp.float32)
    return lambda step: jnp.where(step == num_steps - 1, jnp.float32(num_steps), jnp.float32(0))


def _centred(values: jax.Array, average: Average) -> jax.Array:
    """The objective f[groups, num_steps, r], weighted, less a baseline that the noise cannot see.

    The baseline is the mean, which does depend on the noise, a little: at the end, where that
    shows, it is the mean of the other replicas.
    """
    if average == "time":
        return values - values.mean()
    last = values[:, -1]
    others = (last - last.mean()) * (last.size / max(last.size - 1, 1))
    return jnp.zeros_like(values).at[:, -1].set(values.shape[1] * others)
