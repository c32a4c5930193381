r"""The smallest solution of a chain of small linear recursions, in linear time.

.. math::
    \min_a \sum_i \tfrac12 a_i^T C_i a_i + d_i^T a_i
    \quad \text{subject to} \quad a_{i-1} = R_i a_i + b_i, \; i = 1, \dots, K - 1

With the multipliers :math:`\lambda_i` and :math:`a = -C^{-1} (d + B^T \lambda)` there remains a
block-tridiagonal, positive definite system, solved by block elimination: K solves of size M.
Neither recursion of a itself would do, since R expands in some directions and contracts in others.
"""

import jax
import jax.numpy as jnp


def solve_chain(c: jax.Array, r: jax.Array, d: jax.Array, b: jax.Array) -> jax.Array:
    """Solves the problem for several right-hand sides at once.

    Args:
        c: f[K, M, M], positive definite.
        r: f[K, M, M]; r[0] is not used.
        d: f[K, M, s].
        b: f[K, M, s]; b[0] is not used.

    Returns:
        The a_i, f[K, M, s].
    """
    inverse = jnp.linalg.inv(c)
    by_inverse = inverse @ d
    reach = r[1:] @ inverse[1:]  # R_i C_i^-1, which is minus the block beside the diagonal
    diagonal = inverse[:-1] + reach @ jnp.swapaxes(r[1:], -1, -2)
    right = r[1:] @ by_inverse[1:] - by_inverse[:-1] - b[1:]

    def eliminate(carry, at):
        schur, rhs, before = carry
        diagonal, right, reach = at
        both = jnp.linalg.solve(schur, jnp.concatenate([before, rhs], axis=1))
        width = before.shape[1]
        schur = diagonal - before.T @ both[:, :width]
        rhs = right + before.T @ both[:, width:]
        return (schur, rhs, reach), (schur, rhs, reach)

    # Before the first multiplier stands one that couples to nothing and is zero.
    identity = jnp.eye(c.shape[-1], dtype=c.dtype)
    first = (identity, jnp.zeros_like(d[0]), jnp.zeros_like(identity))
    _, (schur, rhs, reach) = jax.lax.scan(eliminate, first, (diagonal, right, reach))

    def substitute(later, at):
        schur, rhs, reach = at
        here = jnp.linalg.solve(schur, rhs + reach @ later)
        return here, here

    zero = jnp.zeros_like(d[0])
    _, multipliers = jax.lax.scan(substitute, zero, (schur, rhs, reach), reverse=True)
    ahead = jnp.concatenate([multipliers, zero[None]])
    behind = jnp.concatenate([zero[None], jnp.swapaxes(r[1:], -1, -2) @ multipliers])
    return -(by_inverse + inverse @ (ahead - behind))


def solve_with_neutral(
    c: jax.Array, r: jax.Array, d: jax.Array, b: jax.Array, e: jax.Array, g: jax.Array
) -> jax.Array:
    """Solves the problem with one more constraint across all of it, sum_i e_i . a_i = -g.

    Args:
        c: as in `solve_chain`.
        r: as there.
        d: f[K, M].
        b: f[K, M].
        e: f[K, M].
        g: f[].

    Returns:
        f[K, M].
    """
    free, shift = jnp.moveaxis(
        solve_chain(c, r, jnp.stack([d, e], axis=-1), jnp.stack([b, jnp.zeros_like(b)], axis=-1)),
        -1,
        0,
    )
    return free - shift * (g + jnp.sum(e * free)) / jnp.sum(e * shift)
