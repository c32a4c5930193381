"""The whole matrix and all its eigenvalues, for networks small enough."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from pfn_optax.curvature.operators import AnyOperator, Operator, hessian_operator
from pfn_optax.curvature.status import raise_if_nonfinite

MAX_DIMENSION = 5000
"""Above it the eigenvalues take minutes on a CPU, and the matrix hundreds of megabytes."""

_COLUMNS_AT_ONCE = 128  # the memory of so many products, whatever the dimension


def dense_matrix(operator: AnyOperator, *, max_dimension: int = MAX_DIMENSION) -> jax.Array:
    """Returns the matrix of an operator in the order of `jax.flatten_util.ravel_pytree`.

    Column by column, some at a time, so that the memory beyond the matrix is that of a few
    products and not of one per parameter (as in `jax.hessian`). Use float64
    (`jax.enable_x64(True)`) where the signs of small eigenvalues matter.

    Args:
        operator: of `hessian_operator` or `gauss_newton_operator`.
        max_dimension: the largest number of parameters to accept.

    Returns:
        f[num_params, num_params], symmetric: the mean of the computed matrix and its transpose.

    Raises:
        ValueError: if there are more parameters than `max_dimension`.
        CurvatureError: outside jit, if an entry is not finite.

    Example:
        >>> from pfn_optax.curvature import dense_matrix, hessian_operator
        >>> params = {"a": 3.0, "b": 5.0}
        >>> print(dense_matrix(hessian_operator(lambda p: p["a"] ** 2 * p["b"], params)))
        [[10.  6.]
         [ 6.  0.]]
    """
    leaves = jax.tree.leaves(operator.params)
    num_params, dtype = sum(leaf.size for leaf in leaves), jnp.result_type(*leaves)
    if num_params > max_dimension:
        raise ValueError(
            f"the matrix of {num_params:,} parameters takes {num_params**2 * dtype.itemsize:,} "
            f"bytes and its eigenvalues some {num_params**3 // 10**9:,} x 10^9 operations; the "
            f"limit is max_dimension={max_dimension:,}. Use extreme_eigenpairs for the ends of the "
            "spectrum, spectral_density for its shape, or layer_functions for one layer at a time."
        )
    matrix = _columns(operator) if isinstance(operator, Operator) else operator.mean(_columns)
    matrix = (matrix + matrix.T) / 2
    raise_if_nonfinite(jnp.isfinite(matrix).all())
    return matrix


def eigenvalues(operator: AnyOperator, *, max_dimension: int = MAX_DIMENSION) -> jax.Array:
    """Computes all eigenvalues of an operator.

    Args:
        operator: of `hessian_operator` or `gauss_newton_operator`.
        max_dimension: the largest number of parameters to accept.

    Returns:
        f[num_params], ascending.

    Raises:
        ValueError: if there are more parameters than `max_dimension`.
        CurvatureError: outside jit, if an entry of the matrix is not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.curvature import eigenvalues, hessian_operator
        >>> operator = hessian_operator(lambda p: 2 * p[0] ** 2 - p[1] ** 2, jnp.ones(2))
        >>> print(eigenvalues(operator))
        [-2.  4.]
    """
    return jnp.linalg.eigvalsh(dense_matrix(operator, max_dimension=max_dimension))


def hessian_eigenvalues(loss: Callable[..., jax.Array], params: Any, *args: Any) -> jax.Array:
    """Computes all eigenvalues of the Hessian of a loss.

    Args:
        loss: (params, *args) -> f[].
        params: a tree of real floating-point arrays, of a few thousand entries at most.
        *args: passed on to `loss`.

    Returns:
        f[num_params], ascending.

    Raises:
        ValueError: if `params` is empty, not real floating point, or too large.
        CurvatureError: outside jit, if an entry of the Hessian is not finite.

    Example:
        A saddle:

        >>> from pfn_optax.curvature import hessian_eigenvalues
        >>> print(hessian_eigenvalues(lambda p: p["a"] * p["b"], {"a": 0.0, "b": 0.0}))
        [-1.  1.]
    """
    return eigenvalues(hessian_operator(loss, params, *args))


@jax.jit
def _columns(operator: Operator) -> jax.Array:
    flat, unravel = ravel_pytree(operator.params)

    def column(index):
        unit = jnp.zeros_like(flat).at[index].set(1)
        return ravel_pytree(operator(unravel(unit)))[0]

    return jax.lax.map(column, jnp.arange(flat.size), batch_size=min(flat.size, _COLUMNS_AT_ONCE))
