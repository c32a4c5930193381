r"""An activation in Hermite polynomials, f(z) = sum_k c_k h_k(z), orthonormal under a Gaussian."""

from typing import Any

import jax
import jax.numpy as jnp

from pfn_optax.propagation.arguments import require_activation
from pfn_optax.propagation.kinks import kinks_of
from pfn_optax.propagation.quadrature import Activation, Kinks, standard_nodes

_MOST = 32


def hermite_coefficients(
    activation: Activation, num: int = 8, *, kinks: Kinks | None = None, dtype: Any = None
) -> jax.Array:
    r"""Returns the first coefficients of an activation in orthonormal Hermite polynomials.

    .. math:: c_k = E[f(z) h_k(z)], \quad \sum_k c_k^2 = E[f(z)^2]

    for standard Gaussian z. c_0 is the mean, c_1 the linear part.

    Args:
        activation: a JAX function of one number.
        num: how many, at most 32: beyond, the polynomials outrun the quadrature.
        kinks: as for `variance_map`.
        dtype: of the computation, the default real dtype if not given.

    Returns:
        f[num].

    Raises:
        ValueError: if the activation is not elementwise, or `num` is out of range.

    Example:
        >>> import jax
        >>> from pfn_optax.propagation import hermite_coefficients
        >>> print(hermite_coefficients(jax.nn.relu, 3).round(4))  # 1 / sqrt(2 pi), 1 / 2, ...
        [0.3989 0.5    0.2821]
    """
    require_activation(activation)
    if not 1 <= num <= _MOST:
        raise ValueError(f"num must be from 1 to {_MOST}, got {num}.")
    dtype = jnp.result_type(float) if dtype is None else dtype
    z, weights = standard_nodes(dtype, kinks_of(activation, kinks))
    weighted = weights * activation(z)
    before, polynomial, coefficients = jnp.zeros_like(z), jnp.ones_like(z), []
    for k in range(num):
        coefficients.append(jnp.sum(weighted * polynomial))
        following = (z * polynomial - k**0.5 * before) / (k + 1) ** 0.5
        before, polynomial = polynomial, following
    return jnp.stack(coefficients)


def isometry_decay(
    activation: Activation, *, kinks: Kinks | None = None, dtype: Any = None
) -> jax.Array:
    r"""Returns how fast layer norm after an activation brings representations to isometry.

    .. math:: \beta_0 = 2 - \frac{c_1^2}{\sum_{k \ge 1} c_k^2}

    with the Hermite coefficients c_k of the activation: 1 for linear ones, at most 2.

    Args:
        activation: a JAX function of one number.
        kinks: as for `variance_map`.
        dtype: of the computation, the default real dtype if not given.

    Returns:
        f[]; NaN of a constant.

    Raises:
        ValueError: if the activation is not elementwise.

    Example:
        >>> import jax
        >>> from pfn_optax.propagation import isometry_decay
        >>> print(f"{isometry_decay(jax.nn.relu):.4f}")
        1.2665

    Reference:
        Joudaki, Daneshmand, Bach, "On the impact of activation and normalization in obtaining
        isometric embeddings at initialization", NeurIPS 2023.
    """
    require_activation(activation)
    dtype = jnp.result_type(float) if dtype is None else dtype
    z, weights = standard_nodes(dtype, kinks_of(activation, kinks))
    value = activation(z)
    deviation = value - jnp.sum(weights * value)
    linear = jnp.sum(weights * z * value)
    return 2 - linear**2 / jnp.sum(weights * deviation**2)
