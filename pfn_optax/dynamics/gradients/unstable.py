r"""Adjoint shadowing with the unstable contribution: the whole linear response of a map.

Shadowing moves an orbit and keeps its weight. What it leaves out is how the density along the
unstable directions changes, through the factor by which a step expands them,

.. math:: h_n(g, x) = \mathrm{tr}\,(\epsilon_{n+1}^T f_x(g, x) e_n), \quad
          \epsilon_{n+1}^T f_x e_n = I

with the unstable tangent basis e (pushed forward) and the unstable cotangent basis
:math:`\epsilon` (pulled backward). h is an objective of its own, with a shadowing cotangent
:math:`\tilde\nu`, and

.. math::
    \frac{dJ}{dg} = \langle (\nu + \varphi_x) \cdot f_g + \varphi_g \rangle
    - \langle \psi_{n+1} (\tilde\nu_{n+1} \cdot f_g + h_g) \rangle, \quad
    \psi_n = \sum_{|w| \le W} \varphi(x_{n+w}) - \bar\varphi
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from pfn_optax.dynamics.basis import orthonormalise, random_basis
from pfn_optax.dynamics.gradients import batch_means, segments
from pfn_optax.dynamics.gradients.backprop import suspect_flat
from pfn_optax.dynamics.gradients.kkt import solve_chain
from pfn_optax.dynamics.gradients.result import Estimate, GradientStatus
from pfn_optax.dynamics.gradients.segments import Plan
from pfn_optax.dynamics.gradients.shadowing import exponents_of, sweep, unstable_rows
from pfn_optax.dynamics.gradients.system import System
from pfn_optax.dynamics.tangent import push


def shadowing_unstable(
    system: System,
    params: Any,
    start: jax.Array,
    drives: Any,
    plan: Plan,
    key: jax.Array,
    num_unstable: int,
    window: int,
) -> Estimate:
    """Shadowing and unstable contribution of a map.

    Args:
        system: the problem.
        params: where.
        start: f[n].
        drives: leaves [K, L, ...].
        plan: of the cut.
        key: of the directions to start from.
        num_unstable: positive exponents, exactly.
        window: W, in steps.
    """
    run = segments.run(lambda x, drive, _: system.advance(params, x, drive), start, drives, plan)
    to_tangent, to_cotangent = jax.random.split(key)
    bases = _bases(system, params, run.starts, drives, plan, to_tangent, num_unstable)

    def expansion(params, x, drive, basis, dual):
        _, pushed = push(partial(system.step, params), x, drive, basis)
        return jnp.sum(dual.T * pushed)

    def dual_of(point, w):
        x, drive, basis = point
        _, pushed = push(partial(system.step, params), x, drive, basis)
        return jnp.linalg.solve(w @ pushed, w)

    def pull(point, w, v):
        x, drive, basis = point
        (_, value), back = jax.vjp(lambda x: system.advance(params, x, drive), x)
        marks = jnp.zeros(len(w) + 2, value.dtype).at[-2].set(1)
        (pulled,) = jax.vmap(lambda row, mark: back((row, mark)))(jnp.concatenate([w, v]), marks)
        source = jax.grad(expansion, 1)(params, x, drive, basis, dual_of(point, w))
        return pulled[:-2], pulled[-2:].at[1].add(source)

    def points_of(kept):
        first, drive, basis = kept

        def move(carry, d):
            x, columns = carry
            return push(partial(system.step, params), x, d, columns)

        states, tangents = segments.within(move, (first, basis), drive, plan)
        return states, (states, drive, tangents)

    terminal = (
        unstable_rows(system, params, run.state, to_cotangent, num_unstable),
        jnp.zeros((2, start.size), start.dtype),
    )
    kept = (run.starts, drives, bases)
    swept = sweep(pull, jnp.zeros_like, points_of, terminal, kept)
    a = solve_chain(swept.c, swept.r, swept.d, swept.b)
    ends = swept.particular + jnp.einsum("kms,kmn->ksn", a, swept.q)
    centred = (run.values - run.values.mean()).reshape(-1)
    weights = segments.cut(segments.window_sums(centred, window, window), plan)

    def contribute(carry, at):
        (w, v), total = carry
        point, weight = at
        x, drive, basis = point
        dual = dual_of(point, w)
        (_, value), back = jax.vjp(lambda p: system.advance(p, x, drive), params)
        (shadowed,) = back((v[0] - weight * v[1], jnp.ones_like(value)))
        expanded = jax.grad(expansion)(params, x, drive, basis, dual)
        term = jax.tree.map(lambda s, u: s - weight.astype(u.dtype) * u, shadowed, expanded)
        return (pull(point, w, v), batch_means.add(total, term)), None

    def segment(batches, at):
        kept, q, end, weight, number = at
        begin = ((q, end), batch_means.accumulator(params))
        (_, total), _ = jax.lax.scan(contribute, begin, (points_of(kept)[1], weight), reverse=True)
        closes = batch_means.closes_batch(number, plan, is_reversed=False)
        return batch_means.append(batches, total, plan.segment_steps, closes), None

    numbers = jnp.arange(plan.num_segments, dtype=jnp.int32)
    batches, _ = jax.lax.scan(
        segment, batch_means.start(params), (kept, swept.q, ends, weights, numbers)
    )
    exponents = exponents_of(swept.r, plan)
    suspicion = suspect_flat(system, params, run.starts, drives)
    is_overcounted = (suspicion == GradientStatus.OK) & jnp.any(exponents <= 0)
    return Estimate(
        run.values[None],
        *batch_means.conclude(batch_means.one_group(batches), plan.num_steps, params),
        exponents,
        run.state,
        run.first_nonfinite,
        jnp.where(is_overcounted, jnp.int32(GradientStatus.NOT_EXPANDING), suspicion),
    )


def _bases(
    system: System,
    params: Any,
    starts: jax.Array,
    drives: Any,
    plan: Plan,
    key: jax.Array,
    num_unstable: int,
) -> jax.Array:
    """Orthonormal unstable tangents f[K, n, u] at the starts of the segments, as columns."""

    def segment(columns, at):
        first, drive = at

        def one(carry, d):
            return push(partial(system.step, params), carry[0], d, carry[1]), None

        (_, pushed), _ = jax.lax.scan(one, (first, columns), drive, plan.segment_steps)
        return orthonormalise(pushed)[0], columns

    columns = random_basis(key, starts.shape[1], num_unstable, starts.dtype)
    return jax.lax.scan(segment, columns, (starts, drives))[1]
