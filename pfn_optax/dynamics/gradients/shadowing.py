r"""Adjoint shadowing: the cotangents that stay bounded along a chaotic trajectory.

With :math:`\nu_n` the cotangent of :math:`x_n`, objective of that state excluded,

.. math:: \nu_n = f_x^T (\nu_{n+1} + \varphi_x(x_{n+1})), \quad
          \frac{dJ}{dg} = \langle (\nu_{n+1} + \varphi_x(x_{n+1})) \cdot f_g + \varphi_g \rangle

holds for backpropagation too, which starts from zero at the end and explodes. Here the end is free
in the unstable directions, W: backward over each segment go M homogeneous cotangents and one
particular v*, at the interfaces W = Q R is made orthonormal and v* is rid of its part in Q, and the
coefficients a with :math:`\nu = v^* + W a` are those of the smallest :math:`\sum |\nu|^2`. For a
flow, M counts the neutral direction too, and :math:`\sum \nu \cdot F = 0` settles how much of it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pfn_optax.dynamics.basis import orthonormalise, random_basis
from pfn_optax.dynamics.gradients import batch_means, segments
from pfn_optax.dynamics.gradients.backprop import suspect_flat
from pfn_optax.dynamics.gradients.kkt import solve_chain, solve_with_neutral
from pfn_optax.dynamics.gradients.result import Estimate
from pfn_optax.dynamics.gradients.segments import Plan
from pfn_optax.dynamics.gradients.system import System


class Sweep(NamedTuple):
    """What a backward sweep leaves of every segment.

    Attributes:
        q: f[K, M, n], the homogeneous cotangents at the segment's end, as rows.
        particular: f[K, s, n], the particular ones there.
        r: f[K, M, M], from the segment's end to its start.
        b: f[K, M, s], what was taken from the particular ones at its start.
        c: f[K, M, M], sum of w w^T over the segment, by the trapezoid rule.
        d: f[K, M, s], sum of w . v*.
        e: f[K, M], sum of w . velocity.
        g: f[K, s], sum of v* . velocity.
    """

    q: jax.Array
    particular: jax.Array
    r: jax.Array
    b: jax.Array
    c: jax.Array
    d: jax.Array
    e: jax.Array
    g: jax.Array


def sweep(
    pull: Callable[..., tuple[jax.Array, jax.Array]],
    velocity: Callable[[jax.Array], jax.Array],
    points_of: Callable[..., tuple[jax.Array, Any]],
    terminal: tuple[jax.Array, jax.Array],
    kept: Any,
) -> Sweep:
    """Goes backward over the segments.

    Args:
        pull: (point, w f[M, n], v* f[s, n]) -> the same one step earlier.
        velocity: f[n] -> f[n], zero for maps.
        points_of: what was kept of a segment -> its states f[L, n] and its points, [L, ...].
        terminal: w and v* at the very end.
        kept: leaves [K, ...].

    Returns:
        The sums.
    """

    def one(carry, at):
        w, v, (c, d, e, g) = carry
        state, point, weight = at
        w, v = pull(point, w, v)
        flow = velocity(state)
        sums = (c + weight * (w @ w.T), d + weight * (w @ v.T), e + w @ flow, g + v @ flow)
        return (w, v, sums), None

    def segment(carry, kept):
        w, v = carry
        states, points = points_of(kept)
        num, others = len(w), len(v)
        weights = jnp.ones(len(states), w.dtype).at[0].set(0.5)
        # At the end w is orthonormal, and v* orthogonal to it.
        zeros = (jnp.eye(num), jnp.zeros((num, others)), jnp.zeros(num), jnp.zeros(others))
        half = jax.tree.map(lambda leaf: 0.5 * leaf.astype(w.dtype), zeros)
        (pulled, particular, sums), _ = jax.lax.scan(
            one, (w, v, half), (states, points, weights), reverse=True
        )
        columns, r = orthonormalise(pulled.T)
        b = columns.T @ particular.T
        return (columns.T, particular - b.T @ columns.T), Sweep(w, v, r, b, *sums)

    return jax.lax.scan(segment, terminal, kept, reverse=True)[1]


def shadowing(
    system: System,
    params: Any,
    start: jax.Array,
    drives: Any,
    plan: Plan,
    key: jax.Array,
    num_unstable: int,
) -> Estimate:
    """The shadowing contribution to the gradient; nearly all of it where few directions expand.

    Args:
        system: the problem; with a velocity if it is a flow.
        params: where.
        start: f[n].
        drives: leaves [K, L, ...].
        plan: of the cut.
        key: of the directions to start from.
        num_unstable: positive exponents, without the neutral one.
    """
    run = segments.run(lambda x, drive, _: system.advance(params, x, drive), start, drives, plan)

    def pull(point, w, v):
        x, drive = point
        (_, value), back = jax.vjp(lambda x: system.advance(params, x, drive), x)
        marks = jnp.zeros(len(w) + 1, value.dtype).at[-1].set(1)
        (pulled,) = jax.vmap(lambda row, mark: back((row, mark)))(jnp.concatenate([w, v]), marks)
        return pulled[:-1], pulled[-1:]

    def points_of(kept):
        first, drive = kept
        states = segments.within(partial(system.step, params), first, drive, plan)
        return states, (states, drive)

    terminal = (
        unstable_rows(system, params, run.state, key, num_unstable),
        jnp.zeros((1, start.size), start.dtype),
    )
    swept = sweep(pull, velocity_of(system, params), points_of, terminal, (run.starts, drives))
    if system.velocity is None:
        a = solve_chain(swept.c, swept.r, swept.d, swept.b)[:, :, 0]
    else:
        a = solve_with_neutral(
            swept.c, swept.r, swept.d[:, :, 0], swept.b[:, :, 0], swept.e, jnp.sum(swept.g)
        )
    ends = swept.particular[:, 0] + jnp.einsum("km,kmn->kn", a, swept.q)

    def contribute(carry, at):
        cotangent, total = carry
        x, drive = at
        (_, value), back = jax.vjp(lambda p, x: system.advance(p, x, drive), params, x)
        by_params, cotangent = back((cotangent, jnp.ones_like(value)))
        return (cotangent, batch_means.add(total, by_params)), None

    def segment(batches, at):
        kept, end, number = at
        begin = (end, batch_means.accumulator(params))
        (_, total), _ = jax.lax.scan(contribute, begin, points_of(kept)[1], reverse=True)
        closes = batch_means.closes_batch(number, plan, is_reversed=False)
        return batch_means.append(batches, total, plan.segment_steps, closes), None

    numbers = jnp.arange(plan.num_segments, dtype=jnp.int32)
    batches, _ = jax.lax.scan(
        segment, batch_means.start(params), ((run.starts, drives), ends, numbers)
    )
    return Estimate(
        run.values[None],
        *batch_means.conclude(batch_means.one_group(batches), plan.num_steps, params),
        exponents_of(swept.r, plan),
        run.state,
        run.first_nonfinite,
        suspect_flat(system, params, run.starts, drives),
    )


def unstable_rows(
    system: System, params: Any, state: jax.Array, key: jax.Array, num_unstable: int
) -> jax.Array:
    """Random orthonormal rows f[M, n]; for a flow orthogonal to the velocity, which comes last."""
    if system.velocity is None:
        return random_basis(key, state.size, num_unstable, state.dtype).T
    flow = system.velocity(params, state)[:, None]
    draws = jax.random.normal(key, (state.size, num_unstable), state.dtype)
    columns, _ = orthonormalise(jnp.concatenate([flow, draws], axis=1))
    return jnp.roll(columns, -1, axis=1).T


def velocity_of(system: System, params: Any) -> Callable[[jax.Array], jax.Array]:
    """The neutral direction, zero for maps."""
    if system.velocity is None:
        return jnp.zeros_like
    neutral = system.velocity
    return lambda x: neutral(params, x)


def exponents_of(r: jax.Array, plan: Plan) -> jax.Array:
    """Exponents of the followed directions from R f[K, M, M], nats per step."""
    diagonal = jnp.diagonal(r, axis1=1, axis2=2)
    return jnp.mean(jnp.log(diagonal), axis=0) / plan.segment_steps
