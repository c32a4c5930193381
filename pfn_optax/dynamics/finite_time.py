"""Finite-time exponents of a network: a field over its inputs, from singular values."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from pfn_optax.dynamics.basis import orthonormalise, random_basis
from pfn_optax.dynamics.steps import require_state
from pfn_optax.dynamics.tangent import at_least_single

ITERATIONS, SPARE = 4, 8  # of the subspace iteration; errors fall like (s_{k+9} / s_k)^8


def finite_time_exponents(
    function: Callable[[Any], Any],
    inputs: Any,
    *,
    depth: int,
    num_exponents: int | None = None,
    batch_size: int | None = None,
) -> jax.Array:
    r"""Measures by how much a network of some depth stretches around each of its inputs.

    .. math::
        \lambda_i(x) = \frac{1}{L} \ln \sigma_i\!\left(\frac{\partial f}{\partial x}(x)\right)

    All of them come from the whole Jacobian, by forward or backward mode, whichever takes fewer
    passes. A few leading ones come from products with it and its transpose (subspace iteration),
    which never overestimate: the singular values are those of the Jacobian on a subspace.

    Args:
        function: input -> output, trees of real floating leaves.
        inputs: tree of points, with one leading axis.
        depth: L, the number of layers of the function.
        num_exponents: how many of the largest; all by default.
        batch_size: points at a time, to bound the memory; all at once by default.

    Returns:
        f[num_points, k], descending; -inf where a singular value is zero.

    Raises:
        ValueError: if the depth is not positive, the inputs are not real and floating, or more
            exponents are asked for than inputs or outputs.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.dynamics import finite_time_exponents
        >>> def network(x):
        ...     return jnp.tanh(3 * jnp.tanh(3 * x))
        >>> points = jnp.linspace(0.0, 1.0, 3)[:, None]
        >>> for exponent in finite_time_exponents(network, points, depth=2).ravel():
        ...     print(f"{exponent:.1f}")
        1.1
        -1.8
        -3.5

    Reference:
        Storm, Linander, Bec, Gustavsson & Mehlig 2024, "Finite-time Lyapunov exponents of deep
        neural networks".
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}.")
    inputs = require_state(inputs)

    def at(point):
        vector, unravel = ravel_pytree(point)
        start = vector.astype(at_least_single(vector.dtype))

        def flat(start):
            output = function(unravel(start.astype(vector.dtype)))
            return ravel_pytree(output)[0].astype(start.dtype)

        [num_outputs] = jax.eval_shape(flat, start).shape
        largest = min(start.size, num_outputs)
        k = largest if num_exponents is None else num_exponents
        if not 1 <= k <= largest:
            raise ValueError(
                f"num_exponents must be in 1, ..., {largest}, the lesser of {start.size} inputs "
                f"and {num_outputs} outputs; got {k}."
            )
        if k + SPARE >= largest:
            values = _all_values(flat, start, num_outputs)
        else:
            values = _leading_values(flat, start, k + SPARE)
        return jnp.log(values[:k]) / depth

    @jax.jit  # one program, also where the caller runs eagerly
    def field(inputs):
        if batch_size is None:
            return jax.vmap(at)(inputs)
        return jax.lax.map(at, inputs, batch_size=batch_size)

    return field(inputs)


def _all_values(flat: Callable, start: jax.Array, num_outputs: int) -> jax.Array:
    jacobian = (jax.jacfwd if start.size <= num_outputs else jax.jacrev)(flat)(start)
    return jnp.linalg.svd(jacobian, compute_uv=False)


def _leading_values(flat: Callable, start: jax.Array, width: int) -> jax.Array:
    """Singular values on the subspace that iteration finds, of so many columns."""
    _, tangent = jax.linearize(flat, start)
    _, transposed = jax.vjp(flat, start)
    push = jax.vmap(tangent, in_axes=1, out_axes=1)
    pull = jax.vmap(lambda column: transposed(column)[0], in_axes=1, out_axes=1)

    def iterate(_, basis):
        images, _ = orthonormalise(push(basis))
        return orthonormalise(pull(images))[0]

    basis = random_basis(jax.random.key(0), start.size, width, start.dtype)
    basis = jax.lax.fori_loop(0, ITERATIONS, iterate, basis)
    return jnp.linalg.svd(push(basis), compute_uv=False)
