"""What is certain of the inertia of an operator that is too large to be written out."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pfn_optax.curvature import krylov as spaces
from pfn_optax.curvature.krylov import Krylov
from pfn_optax.curvature.operators import AnyOperator, Operator
from pfn_optax.curvature.status import raise_if_nonfinite


class InertiaBounds(NamedTuple):
    """Bounds on the numbers of eigenvalues by sign.

    Attributes:
        negative: at least so many are negative.
        zero: at most so many are zero: all the others.
        positive: at least so many are positive.
        tolerance: the rounding error that a Ritz value must exceed to be counted, measured.
        is_exact: whether the space was the whole space, so that nothing is left open but what lies
            within the tolerance.
    """

    negative: int
    zero: int
    positive: int
    tolerance: float
    is_exact: bool


def inertia_bounds(
    operator: AnyOperator, *, num_vectors: int = 100, key: jax.Array | None = None
) -> InertiaBounds:
    r"""Bounds the numbers of negative and positive eigenvalues from products alone.

    The operator A seen on a subspace with orthonormal basis V is :math:`V A V^T`, and by Cauchy's
    interlacing theorem its i-th largest eigenvalue is at most that of A, its i-th smallest at least
    that of A: A has as many negative (positive) eigenvalues as it, or more. No residual needs to be
    small for that. A Ritz value counts if it exceeds the rounding error, which is measured: the
    Lanczos recurrence knows the entries of the projected operator twice.

    What is zero cannot be certified from a subspace; `zero` is what remains.

    Args:
        operator: of `hessian_operator` or `gauss_newton_operator`.
        num_vectors: dimension of the subspace, at most the number of parameters: so many products,
            and copies of the parameters in memory.
        key: of the random vectors, `jax.random.key(0)` by default.

    Returns:
        The bounds.

    Raises:
        ValueError: if `num_vectors` is not positive.
        CurvatureError: if a product is not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.curvature import hessian_operator, inertia_bounds
        >>> scales = jnp.concatenate([-jnp.ones(2), jnp.zeros(300), jnp.arange(1.0, 4.0)])
        >>> operator = hessian_operator(lambda p: jnp.sum(scales * p**2) / 2, jnp.ones(305))
        >>> found = inertia_bounds(operator, num_vectors=20)
        >>> print(found.negative, found.zero, found.positive)
        2 300 3

    Reference:
        Parlett 1998, "The Symmetric Eigenvalue Problem", section 10.1.
    """
    if num_vectors < 1:
        raise ValueError(f"num_vectors must be at least 1, got {num_vectors}.")
    dimension = sum(leaf.size for leaf in jax.tree.leaves(operator.params))
    num_vectors = min(num_vectors, dimension)
    key = jax.random.key(0) if key is None else key
    start, restarts = jax.random.split(key)
    space = spaces.start(spaces.random_vector(start, operator.params), num_vectors)
    if isinstance(operator, Operator):
        space = _grown(operator, space, restarts)
    else:
        space = spaces.grow(operator, space, 0, restarts, spaces.ON_HOST)
    raise_if_nonfinite(space.is_finite)
    values = jnp.linalg.eigvalsh(spaces.symmetric(space))
    tolerance = _rounding(space, values)
    negative, positive = int((values < -tolerance).sum()), int((values > tolerance).sum())
    return InertiaBounds(
        negative=negative,
        zero=dimension - negative - positive,
        positive=positive,
        tolerance=float(tolerance),
        is_exact=num_vectors == dimension,
    )


@jax.jit
def _grown(operator: Operator, space: Krylov, key: Any) -> Krylov:
    return spaces.grow(operator, space, 0, key, spaces.COMPILED)


def _rounding(space: Krylov, values: jax.Array) -> jax.Array:
    """The norm of what is not symmetric in the projected operator, and that of its entries."""
    matrix, eps = space.projected, jnp.finfo(values.dtype).eps
    asymmetry = jnp.triu(matrix, 1) - jnp.tril(matrix, -1).T
    return 2 * jnp.maximum(jnp.linalg.norm(asymmetry, 2), len(values) * eps * jnp.abs(values).max())
