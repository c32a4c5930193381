"""Orthonormal bases of subspaces of the tangent space, as columns of one matrix."""

import jax
import jax.numpy as jnp


def orthonormalise(columns: jax.Array) -> tuple[jax.Array, jax.Array]:
    """QR decomposition with a positive diagonal, which makes it unique and continuous.

    Args:
        columns: f[n, k], k <= n.

    Returns:
        Q f[n, k] and upper triangular R f[k, k], with `columns = Q R`. A zero on the diagonal of R
        keeps its column of Q.
    """
    q, r = jnp.linalg.qr(columns)
    signs = jnp.where(jnp.diagonal(r) < 0, -1, 1).astype(columns.dtype)
    return q * signs[None, :], signs[:, None] * r


def random_basis(key: jax.Array, size: int, num_vectors: int, dtype: jnp.dtype) -> jax.Array:
    """Draws an orthonormal f[size, num_vectors], uniformly."""
    return orthonormalise(jax.random.normal(key, (size, num_vectors), dtype))[0]
