"""Covariant Lyapunov vectors: the directions that the dynamics carries into one another."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from pfn_optax.dynamics.status import raise_if_nonfinite
from pfn_optax.dynamics.steps import Step, require_state
from pfn_optax.dynamics.sweep import Columns, require_time_step
from pfn_optax.dynamics.tangent import System, count_steps, flat_system, initial_basis, push


class CovariantVectors(NamedTuple):
    """Covariant vectors on a stretch of a trajectory.

    Attributes:
        states: tree of f[num_steps, *shape].
        vectors: tree of f[num_steps, k, *shape], unit vectors at these states; their signs are
            arbitrary.
        growth: f[num_steps, k], the log of what the step from there multiplies each vector by.
        exponents: f[k], the means of the growth, nats per unit of time.
        status: i32[], a `DynamicsStatus`.
        first_nonfinite: i32[], the step that made the state or a derivative NaN or infinite,
            counted from 0 with the transient; -1 if there is none.
    """

    states: Any
    vectors: Any
    growth: jax.Array
    exponents: jax.Array
    status: jax.Array
    first_nonfinite: jax.Array


def covariant_vectors(
    step: Step,
    state: Any,
    *,
    num_steps: int | None = None,
    inputs: Any = None,
    num_exponents: int | None = None,
    num_transient: int = 100,
    time_step: float | jax.Array = 1.0,
    key: jax.Array | None = None,
) -> CovariantVectors:
    r"""Finds the directions v that grow with one exponent each, forward and backward in time.

    .. math::
        J_n v_n^{(i)} = e^{g_n^{(i)}} \, v_{n+1}^{(i)}

    The orthonormal columns Q of a spectrum are not that: all but the first are bent by the
    projection. The forward pass stores Q and R of every step, and the backward pass applies the
    inverse of R to upper triangular coefficients, which converge to those of the covariant vectors
    in Q (Ginelli's algorithm). Angles between the vectors tell how near the system is to
    losing hyperbolicity.

    Memory: num_steps n k + (num_steps + num_transient) k^2 numbers. For a long trajectory take one
    chunk of it after the other.

    Args:
        step: (state) -> state, or (state, input) -> state where there are inputs.
        state: the first state, a tree of real floating leaves.
        num_steps: recorded steps; by default as many as there are inputs for.
        inputs: tree with a leading axis of time: `num_transient`, `num_steps` and again
            `num_transient`.
        num_exponents: how many of the leading vectors, k; all by default.
        num_transient: steps before, in which Q converges, and after, in which the coefficients do.
            The error falls like exp(-(difference of neighbouring exponents) x steps).
        time_step: units of time in a step, for the exponents.
        key: of the random columns, `jax.random.key(0)` by default.

    Returns:
        The vectors along the recorded steps.

    Raises:
        ValueError: as for `lyapunov_spectrum`.
        DynamicsError: outside jit, if a state or derivative is not finite; the step is named.

    Example:
        The cat map stretches along the same direction everywhere, the golden ratio:

        >>> import jax.numpy as jnp
        >>> from pfn_optax.dynamics import classic, covariant_vectors
        >>> found = covariant_vectors(classic.cat_map, jnp.zeros(2), num_steps=10)
        >>> x, y = found.vectors[5, 0]
        >>> print(f"{x / y:.4f}")
        1.6180

    Reference:
        Ginelli, Poggi, Turchi, Chate, Livi & Politi 2007, "Characterizing dynamics with covariant
        Lyapunov vectors".
    """
    num_steps = count_steps(num_steps, inputs, num_unrecorded=2 * num_transient)
    require_time_step(time_step)

    @jax.jit  # one program, also where the caller runs eagerly
    def measured(state, inputs, key):
        system = flat_system(step, state, inputs)
        columns = Columns.start(initial_basis(system, num_exponents, None, key))
        point = system.state, columns, jnp.zeros((), jnp.int32)
        return _ginelli(system, point, inputs, num_transient, num_steps, time_step)

    found = measured(require_state(state), inputs, key)
    raise_if_nonfinite(found.first_nonfinite)
    return found


def _ginelli(
    system: System,
    point: tuple[jax.Array, Columns, jax.Array],
    inputs: Any,
    num_transient: int,
    num_steps: int,
    time_step: Any,
) -> CovariantVectors:
    """The forward pass, then the backward pass on what it stored."""

    def advance(point, given):
        state, columns, number = point
        after, basis = push(system.step, state, given, columns.basis)
        moved, r = columns.moved(basis, after, number).decomposed()
        return (after, moved, number + 1), (state, columns.basis, r)

    def forward(point, start, count, kept):
        given = jax.tree.map(lambda x: x[start : start + count], inputs)

        def keep(point, given):
            point, stored = advance(point, given)
            return point, kept(*stored)

        return jax.lax.scan(keep, point, given, count)

    end = num_transient + num_steps
    point, _ = forward(point, 0, num_transient, lambda *stored: None)
    point, stored = forward(point, num_transient, num_steps, lambda *stored: stored)
    point, later = forward(point, end, num_transient, lambda state, basis, r: r)
    states, bases, recorded = stored
    columns = point[1]

    # Upper triangular with ones: every vector has a share of its own column of Q.
    coefficients = jnp.triu(jnp.ones_like(recorded[0]))
    coefficients, _ = jax.lax.scan(_back, coefficients, later, reverse=True)
    _, (coefficients, growth) = jax.lax.scan(_back, coefficients, recorded, reverse=True)
    return CovariantVectors(
        states=jax.vmap(system.tree)(states),
        vectors=jax.vmap(jax.vmap(system.tree, in_axes=1))(bases @ coefficients),
        growth=growth,
        exponents=growth.mean(axis=0) / jnp.asarray(time_step, growth.dtype),
        status=columns.status,
        first_nonfinite=columns.first_nonfinite,
    )


def _back(after: jax.Array, r: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Coefficients f[k, k] before a step from those after it, and the log growth f[k] between."""
    before = solve_triangular(r, after / jnp.linalg.norm(after, axis=0, keepdims=True))
    lengths = jnp.linalg.norm(before, axis=0)
    before = before / lengths[None, :]
    return before, (before, -jnp.log(lengths))
