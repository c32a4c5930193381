"""The spectrum of the transposed Jacobians, swept backward: what a gradient meets on its way."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pfn_optax.dynamics import sweep
from pfn_optax.dynamics.spectrum import LyapunovSpectrum, result
from pfn_optax.dynamics.status import raise_if_nonfinite
from pfn_optax.dynamics.steps import Step, require_state
from pfn_optax.dynamics.sweep import Columns, Piece, Plan
from pfn_optax.dynamics.tangent import System, count_steps, flat_system, initial_basis, pull


def adjoint_lyapunov_spectrum(
    step: Step,
    state: Any,
    *,
    num_steps: int | None = None,
    inputs: Any = None,
    num_exponents: int | None = None,
    qr_every: int = 1,
    num_transient: int = 0,
    time_step: float | jax.Array = 1.0,
    num_points: int = 100,
    basis: Any = None,
    key: jax.Array | None = None,
) -> LyapunovSpectrum:
    r"""Measures the Lyapunov exponents of backpropagation along the trajectory of a state.

    The columns are pulled back from the last state to the first, by vector-Jacobian products:

    .. math::
        Q_n R_n = J_n^T Q_{n+1}

    These exponents are those of `lyapunov_spectrum` (an identity in the limit of many steps), and
    the columns span the directions in which a gradient grows the fastest.

    The trajectory is run once, keeping the first state of each block, and each block once more on
    the way back: `num_points` states and the steps of one block are in memory, the least with as
    many points as the root of the number of steps.

    Args:
        step: as for `lyapunov_spectrum`, as are all arguments that are not explained here.
        state: the first state; the trajectory should be on the attractor already.
        num_steps: recorded steps.
        inputs: tree with a leading axis of time, `num_steps` and then `num_transient`.
        num_exponents: how many.
        qr_every: steps between QR decompositions.
        num_transient: the steps of the sweep before recording, which are the last in time.
        time_step: units of time in a step.
        num_points: blocks at most.
        basis: where to start, at the last state.
        key: of the random columns.

    Returns:
        The exponents. `running` and `times` go backward from the end of what is recorded; `state`
        and `basis`, where the sweep ended, are at the first state.

    Raises:
        ValueError: as for `lyapunov_spectrum`.
        DynamicsError: outside jit, if a state or derivative is not finite; the step is named.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.dynamics import adjoint_lyapunov_spectrum, classic
        >>> found = adjoint_lyapunov_spectrum(classic.cat_map, jnp.zeros(2), num_steps=50)
        >>> print(found.exponents.round(1))  # +- ln((3 + 5**0.5) / 2)
        [ 1. -1.]

    Reference:
        Ni 2022, "Adjoint shadowing for backpropagation in hyperbolic systems".
    """
    num_steps = count_steps(num_steps, inputs, num_unrecorded=num_transient)
    plan = sweep.make_plan(num_steps, num_transient, qr_every, num_points, time_step)

    @jax.jit  # one program, also where the caller runs eagerly
    def measured(state, inputs, basis, key):
        system = flat_system(step, state, inputs)
        columns = Columns.start(initial_basis(system, num_exponents, basis, key))
        return result(system, plan, system.state, *_backward(system, plan, inputs, columns))

    found = measured(require_state(state), inputs, basis, key)
    raise_if_nonfinite(found.first_nonfinite)
    return found


def _backward(
    system: System, plan: Plan, inputs: Any, columns: Columns
) -> tuple[Columns, jax.Array]:
    """Runs the trajectory piece by piece, then pulls the columns back in the opposite order."""
    in_time = plan.pieces[::-1]
    stops = [sum(piece.num_steps for piece in in_time[: i + 1]) for i in range(len(in_time))]
    shaped = [
        piece.shaped(inputs, stop - piece.num_steps)
        for piece, stop in zip(in_time, stops, strict=True)
    ]
    point, starts = _Point(system.state, jnp.zeros((), jnp.int32), columns.first_nonfinite), []
    for piece, given in zip(in_time, shaped, strict=True):
        point, first = _starts(system, point, piece, given)
        starts.append(first)

    # A trajectory that is not finite is named by its first such step, not by the first met.
    columns = columns._replace(first_nonfinite=point.first_nonfinite)
    growth, number = [], jnp.asarray(stops[-1], jnp.int32)
    for piece, given, first in list(zip(in_time, shaped, starts, strict=True))[::-1]:
        (columns, number), rows = _pull_piece(system, columns, number, piece, given, first)
        growth.append(rows[::-1])
    return columns, sweep.recorded_growth(plan, growth)


class _Point(NamedTuple):
    state: jax.Array
    number: jax.Array
    first_nonfinite: jax.Array


def _starts(system: System, point: _Point, piece: Piece, given: Any) -> tuple[_Point, jax.Array]:
    """Where a piece ends, and the first states of its blocks f[blocks, n]."""

    def advance(point, given):
        state = system.step(point.state, given)
        is_first = ~jnp.isfinite(state).all() & (point.first_nonfinite < 0)
        first = jnp.where(is_first, point.number, point.first_nonfinite)
        return _Point(state, point.number + 1, first), None

    def interval(point, given):
        return jax.lax.scan(advance, point, given, piece.length)

    def block(point, given):
        return jax.lax.scan(interval, point, given, piece.intervals)[0], point.state

    return jax.lax.scan(block, point, given, piece.blocks)


def _pull_piece(
    system: System,
    columns: Columns,
    number: jax.Array,
    piece: Piece,
    given: Any,
    first: jax.Array,
) -> tuple[tuple[Columns, jax.Array], jax.Array]:
    """Pulls the columns back through a piece; the growth f[blocks, k] in the order of time."""

    def interval_states(state, given):
        def advance(state, given):
            return system.step(state, given), state

        return jax.lax.scan(advance, state, given, piece.length)

    def back(carry, here):
        columns, number = carry
        state, given = here
        basis = pull(system.step, state, given, columns.basis)
        return (columns.moved(basis, state, number - 1), number - 1), None

    def interval(carry, here):
        point, growth = carry
        (columns, number), _ = jax.lax.scan(back, point, here, reverse=True)
        columns, stretched = columns.orthonormal()
        return ((columns, number), growth + stretched), None

    def block(point, here):
        state, given = here
        _, states = jax.lax.scan(interval_states, state, given, piece.intervals)
        carry = point, jnp.zeros(columns.basis.shape[1], columns.basis.dtype)
        return jax.lax.scan(interval, carry, (states, given), reverse=True)[0]

    return jax.lax.scan(block, (columns, number), (first, given), reverse=True)
