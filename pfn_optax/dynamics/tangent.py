"""A step on flat vectors, with its Jacobian as products: columns pushed forward, pulled back.

The Jacobian is never formed. k columns cost k Jacobian-vector products, which `vmap` makes one pass
of matrix products.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from pfn_optax.dynamics.basis import random_basis
from pfn_optax.dynamics.steps import Step, require_state, require_step

FlatStep = Callable[[jax.Array, Any], jax.Array]


class System(NamedTuple):
    """A step on vectors.

    Attributes:
        step: (f[n], input) -> f[n]; the input is None where there is none.
        state: f[n], the first, in single precision at least.
        tree: f[n] -> a tree like the state.
    """

    step: FlatStep
    state: jax.Array
    tree: Callable[[jax.Array], Any]

    @property
    def size(self) -> int:
        """The number of entries of a state, n."""
        return self.state.size


def flat_system(step: Step, state: Any, inputs: Any = None) -> System:
    """Flattens a step, once its states are checked.

    Args:
        step: (state) or (state, input) -> state.
        state: the first state, a tree.
        inputs: what drives it, with a leading axis of time, or None.

    Returns:
        The system.

    Raises:
        ValueError: if the state is not real and floating, or the step returns another tree.
    """
    state = require_state(state)
    first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), inputs)
    require_step(step, state, *(() if inputs is None else (first,)))
    flat, unravel = ravel_pytree(state)
    dtype = at_least_single(flat.dtype)

    def tree(vector):
        return unravel(vector.astype(flat.dtype))

    def flat_step(vector, given):
        after = step(tree(vector)) if inputs is None else step(tree(vector), given)
        return ravel_pytree(after)[0].astype(dtype)

    return System(flat_step, flat.astype(dtype), tree)


def at_least_single(dtype: jnp.dtype) -> jnp.dtype:
    """The precision to compute in: there is no QR decomposition in half precision."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def count_steps(num_steps: int | None, inputs: Any, *, num_unrecorded: int = 0) -> int:
    """Returns the number of recorded steps.

    Args:
        num_steps: as given, or None for as many as there are inputs for.
        inputs: a tree with a leading axis of time, or None.
        num_unrecorded: steps beside the recorded ones.

    Returns:
        The number, at least 1.

    Raises:
        ValueError: if neither or a number below one is given, or the two disagree.
    """
    if num_unrecorded < 0:
        raise ValueError(f"num_transient must be at least 0, got {num_unrecorded}.")
    if inputs is None:
        if num_steps is None:
            raise ValueError("give num_steps, or inputs with a leading axis of time.")
    else:
        lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(inputs)}
        if len(lengths) != 1 or () in lengths:
            raise ValueError(
                "all inputs must have the same leading axis of time, got "
                f"{', '.join(str(length) for length in sorted(lengths)) or 'no leaves'}."
            )
        [(length,)] = lengths
        if num_steps is None:
            num_steps = length - num_unrecorded
        if num_steps + num_unrecorded != length:
            raise ValueError(
                f"num_steps={num_steps} and {num_unrecorded} transient steps need "
                f"{num_steps + num_unrecorded} inputs, got {length}: leave num_steps out to take "
                "what is there."
            )
    if num_steps < 1:
        raise ValueError(f"at least one step must be recorded, got {num_steps}.")
    return num_steps


def initial_basis(
    system: System, num_exponents: int | None, basis: Any, key: jax.Array | None
) -> jax.Array:
    """Returns orthonormal columns f[n, k] to start from, random unless they are given.

    Args:
        system: the system.
        num_exponents: k; by default n, or as many as are in the given basis.
        basis: a tree with leaves f[k, *shape], or None.
        key: of the random columns, `jax.random.key(0)` by default.

    Returns:
        The columns.

    Raises:
        ValueError: if k is not in 1, ..., n, or the given basis is of another shape.
    """
    if basis is None:
        k = system.size if num_exponents is None else num_exponents
        if not 1 <= k <= system.size:
            raise ValueError(
                f"num_exponents must be in 1, ..., {system.size}, the entries of the state; got "
                f"{k}."
            )
        key = jax.random.key(0) if key is None else key
        return random_basis(key, system.size, k, system.state.dtype)
    rows = jax.vmap(lambda vector: ravel_pytree(vector)[0])(basis).astype(system.state.dtype)
    expected = (len(rows) if num_exponents is None else num_exponents, system.size)
    if rows.shape != expected:
        raise ValueError(
            f"basis must be {expected[0]} vectors of {expected[1]} entries, got {rows.shape[0]} of "
            f"{rows.shape[1]}: pass the basis of an earlier result."
        )
    return rows.T


def push(
    step: FlatStep, state: jax.Array, given: Any, columns: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Takes a step: the next state f[m], and J times the columns, f[m, k]."""

    def along(column):
        return jax.jvp(lambda state: step(state, given), (state,), (column,))

    return jax.vmap(along, in_axes=1, out_axes=(None, 1))(columns)


def pull(step: FlatStep, state: jax.Array, given: Any, columns: jax.Array) -> jax.Array:
    """Returns the transpose of the Jacobian at a state times the columns f[m, k], f[n, k]."""
    _, transposed = jax.vjp(lambda state: step(state, given), state)
    return jax.vmap(lambda column: transposed(column)[0], in_axes=1, out_axes=1)(columns)
