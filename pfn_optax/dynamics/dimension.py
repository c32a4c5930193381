"""What a spectrum says of the attractor: its dimension, and how much information it makes."""

import jax
import jax.numpy as jnp


def kaplan_yorke_dimension(exponents: jax.Array) -> jax.Array:
    r"""Computes the Kaplan-Yorke (Lyapunov) dimension.

    .. math::
        D = j + \frac{\lambda_1 + \dots + \lambda_j}{|\lambda_{j+1}|}

    with j the largest number of exponents whose sum is not negative: volumes of dimension D neither
    grow nor shrink. It is 0 where all exponents are negative (the attractor is a point).

    Args:
        exponents: f[k], in any order. Where the sum of all is not negative the result is k, which
            for a part of the spectrum is only a lower bound.

    Returns:
        f[].

    Raises:
        ValueError: if the exponents are not one axis.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.dynamics import kaplan_yorke_dimension
        >>> print(f"{kaplan_yorke_dimension(jnp.array([0.906, 0, -14.572])):.3f}")  # Lorenz
        2.062

    Reference:
        Kaplan & Yorke 1979, "Chaotic behavior of multidimensional difference equations".
    """
    exponents = _vector(exponents)
    descending = jnp.sort(exponents, descending=True)
    sums = jnp.cumsum(descending)
    count = jnp.sum(sums >= 0)
    index = jnp.minimum(count, len(sums) - 1)
    following = jnp.where(count < len(sums), -descending[index], 1)
    is_partial = (count > 0) & (count < len(sums))
    share = jnp.where(is_partial, sums[count - 1] / following, 0)
    dimension = count.astype(exponents.dtype) + share
    return jnp.where(jnp.isnan(exponents).any(), jnp.nan, dimension)


def entropy_bound(exponents: jax.Array) -> jax.Array:
    """Sums the positive exponents: an upper bound (Ruelle's) of the Kolmogorov-Sinai entropy.

    It is the entropy itself where the invariant measure has a density along the unstable directions
    (Pesin's formula).

    Args:
        exponents: f[k], all positive ones among them, in any order.

    Returns:
        f[], nats per unit of time.

    Raises:
        ValueError: if the exponents are not one axis.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.dynamics import entropy_bound
        >>> print(entropy_bound(jnp.array([0.5, 0.25, -1.0])))
        0.75

    Reference:
        Ruelle 1978, "An inequality for the entropy of differentiable maps".
    """
    return jnp.maximum(_vector(exponents), 0).sum()


def _vector(exponents: jax.Array) -> jax.Array:
    exponents = jnp.asarray(exponents, jnp.result_type(float))
    if exponents.ndim != 1 or not exponents.size:
        raise ValueError(
            f"the exponents must be one axis, f[k], got shape {exponents.shape}: map over the "
            "others by jax.vmap."
        )
    return exponents
