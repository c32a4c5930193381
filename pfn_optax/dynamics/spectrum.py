"""The Lyapunov spectrum: how fast small differences between states grow, direction by direction."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pfn_optax.dynamics import sweep
from pfn_optax.dynamics.status import raise_if_nonfinite
from pfn_optax.dynamics.steps import Step, require_state
from pfn_optax.dynamics.sweep import Columns, Piece, Plan
from pfn_optax.dynamics.tangent import System, count_steps, flat_system, initial_basis, push


class LyapunovSpectrum(NamedTuple):
    """Lyapunov exponents along one trajectory.

    Attributes:
        exponents: f[k], nats per unit of time, in the order of the QR decomposition: descending,
            but for exponents that are not told apart by so many steps.
        standard_error: f[k], of the means over the blocks, correlations between them included;
            infinite of a single block. It says nothing of the transient.
        running: f[num_points, k], the exponents of the steps up to each time: the convergence
            curve.
        times: f[num_points], in units of time.
        state: where the sweep ended, a tree like the state.
        basis: tree of f[k, *shape], orthonormal, of the directions there. The first j span the
            subspace that grows the fastest.
        status: i32[], a `DynamicsStatus`.
        first_nonfinite: i32[], the step that made the state or a derivative NaN or infinite,
            counted from 0 with the transient; -1 if there is none.
    """

    exponents: jax.Array
    standard_error: jax.Array
    running: jax.Array
    times: jax.Array
    state: Any
    basis: Any
    status: jax.Array
    first_nonfinite: jax.Array


def lyapunov_spectrum(
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
    r"""Measures the Lyapunov exponents along the trajectory of a state.

    With J the Jacobian of a step, k orthonormal columns are pushed along the trajectory:

    .. math::
        Q_{n+1} R_{n+1} = J_n Q_n, \qquad
        \lambda_i = \frac{1}{N \, \Delta t} \sum_n \ln (R_n)_{ii}

    The full Jacobian is never formed; a step costs k Jacobian-vector products in one pass. Memory
    does not grow with the number of steps, but for `inputs`. May be jitted, and mapped by `vmap`
    over states, over inputs and over what the step closes over, such as parameters.

    For a flow, take `step = rk4(field, time_step)` and the same `time_step` here. A stack of equal
    layers is a step whose inputs are the stacked parameters.

    Args:
        step: (state) -> state, or (state, input) -> state where there are inputs.
        state: the first state, a tree of real floating leaves.
        num_steps: recorded steps; by default as many as there are inputs for.
        inputs: tree with a leading axis of time, `num_transient` and `num_steps` together.
        num_exponents: how many of the largest, k; all by default.
        qr_every: steps between QR decompositions. More are faster, until the columns are parallel
            up to rounding, which gives the status `UNRESOLVED`.
        num_transient: steps before recording, to reach the attractor and align the columns.
        time_step: units of time in a step.
        num_points: at most so many points of the convergence curve; the standard errors come from
            the same blocks.
        basis: where to start, as the basis of an earlier result; random by default.
        key: of the random columns, `jax.random.key(0)` by default.

    Returns:
        The exponents, their errors and their convergence.

    Raises:
        ValueError: if an option is out of range, the state is not real and floating, the step
            returns another tree or shape, or `num_steps` and `inputs` disagree.
        DynamicsError: outside jit, if a state or derivative is not finite; the step is named.

    Example:
        The map of Henon contracts areas by 0.3:

        >>> import jax.numpy as jnp
        >>> from pfn_optax.dynamics import classic, lyapunov_spectrum
        >>> found = lyapunov_spectrum(classic.henon, jnp.zeros(2), num_steps=2000)
        >>> print(f"{found.exponents[0]:.1f} {jnp.exp(found.exponents.sum()):.3f}")
        0.4 0.300

    Reference:
        Benettin, Galgani, Giorgilli & Strelcyn 1980, "Lyapunov characteristic exponents for smooth
        dynamical systems and for Hamiltonian systems; a method for computing all of them".
        Engelken, Wolf & Abbott 2023, "Lyapunov spectra of chaotic recurrent neural networks".
    """
    num_steps = count_steps(num_steps, inputs, num_unrecorded=num_transient)
    plan = sweep.make_plan(num_steps, num_transient, qr_every, num_points, time_step)

    @jax.jit  # one program, also where the caller runs eagerly
    def measured(state, inputs, basis, key):
        system = flat_system(step, state, inputs)
        columns = Columns.start(initial_basis(system, num_exponents, basis, key))
        return result(system, plan, *forward(system, plan, inputs, columns))

    found = measured(require_state(state), inputs, basis, key)
    raise_if_nonfinite(found.first_nonfinite)
    return found


def forward(
    system: System, plan: Plan, inputs: Any, columns: Columns
) -> tuple[jax.Array, Columns, jax.Array]:
    """Pushes the columns along the trajectory.

    Returns:
        The last state f[n], the columns there, and the log growth f[num_points, k].
    """

    def advance(carry, given):
        state, columns, number = carry
        state, basis = push(system.step, state, given, columns.basis)
        return (state, columns.moved(basis, state, number), number + 1), None

    def run(carry, piece: Piece, start):
        # A derivative keeps the start of each interval, and computes the interval again.
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def interval(carry, given):
            point, growth = carry
            (state, columns, number), _ = jax.lax.scan(advance, point, given, piece.length)
            columns, stretched = columns.orthonormal()
            return ((state, columns, number), growth + stretched), None

        def block(point, given):
            carry = point, jnp.zeros(columns.basis.shape[1], columns.basis.dtype)
            return jax.lax.scan(interval, carry, given, piece.intervals)[0]

        return jax.lax.scan(block, carry, piece.shaped(inputs, start), piece.blocks)

    point, start, growth = (system.state, columns, jnp.zeros((), jnp.int32)), 0, []
    for piece in plan.pieces:
        point, rows = run(point, piece, start)
        start += piece.num_steps
        growth.append(rows)
    state, columns, _ = point
    return state, columns, sweep.recorded_growth(plan, growth)


def result(
    system: System, plan: Plan, state: jax.Array, columns: Columns, growth: jax.Array
) -> LyapunovSpectrum:
    """Puts a spectrum together."""
    return LyapunovSpectrum(
        *sweep.statistics(growth, plan),
        state=system.tree(state),
        basis=jax.vmap(system.tree, in_axes=1)(columns.basis),
        status=columns.status,
        first_nonfinite=columns.first_nonfinite,
    )
