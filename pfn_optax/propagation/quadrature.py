r"""Means over Gaussian preactivations, exact to rounding also for activations with kinks.

Plain Gauss-Hermite quadrature assumes a smooth integrand; with the kink of ReLU its error falls
only as 1 / nodes. Here the line is cut into panels at every kink, and each panel has Gauss-Legendre
nodes. Cuts at fixed preactivations keep saturation resolved when the variance is large, and cuts at
fixed standard deviations keep the Gaussian resolved when it is small.

All sums are written as sums: a matrix product would be rounded to bfloat16 on some accelerators.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Activation = Callable[[Any], Any]
Kinks = tuple[float, ...]

_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(8)  # of each panel
_SPREAD = (-9.0, -5.0, -3.0, -1.5, 1.5, 3.0, 5.0, 9.0)  # standard deviations; 1e-18 lies beyond
_BENDS = (-5.0, -2.0, 0.0, 2.0, 5.0)  # preactivations where the common activations bend
_BLUR = (-4.0, -1.5, 1.5, 4.0)  # a kink seen through a second Gaussian, in its widths


class Moments(NamedTuple):
    """What one layer does to Gaussian preactivations of one variance.

    Attributes:
        square: f[], E[f^2].
        slope_square: f[], E[f'^2].
        growth: f[], d E[f^2] / dq = E[f'^2 + f f''], without a second derivative (Stein's lemma).
    """

    square: jax.Array
    slope_square: jax.Array
    growth: jax.Array


class Products(NamedTuple):
    """What one layer does to two Gaussian preactivations of one variance and given correlation.

    Attributes:
        product: f[], E[f(u1) f(u2)].
        slope_product: f[], E[f'(u1) f'(u2)].
    """

    product: jax.Array
    slope_product: jax.Array


def moments(activation: Activation, q: jax.Array, kinks: Kinks) -> Moments:
    """Returns the means over u of variance q, f[]; at q = 0 their limits from above."""
    scale = jnp.sqrt(jnp.maximum(q, smallest(q.dtype)))
    z, weights = _nodes(scale, jnp.zeros_like(scale), _bends(kinks), ())
    value, slope = value_and_slope(activation, scale * z)
    return Moments(
        square=jnp.sum(weights * value**2),
        slope_square=jnp.sum(weights * slope**2),
        growth=jnp.sum(weights * z * value * slope) / scale,
    )


def products(activation: Activation, q: jax.Array, c: jax.Array, kinks: Kinks) -> Products:
    """Returns the means over u1, u2 of variance q, f[], and correlation c, f[]."""
    scale = jnp.sqrt(jnp.maximum(q, smallest(q.dtype)))
    apart = jnp.sqrt(jnp.maximum(1 - c**2, jnp.finfo(q.dtype).eps))
    # Behind the second Gaussian a kink of u2 is a bend in u1, as wide as the two are apart.
    blurs = jnp.asarray([[kink / scale + blur * apart for kink in kinks] for blur in _BLUR])
    z, weights = _nodes(scale, jnp.zeros_like(scale), _bends(kinks), blurs.reshape(-1))
    first, first_slope = value_and_slope(activation, scale * z)

    def given_first(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        shift = scale * c * z
        inner, weights = _nodes(scale * apart, shift, _bends(kinks), ())
        value, slope = value_and_slope(activation, shift + scale * apart * inner)
        return jnp.sum(weights * value), jnp.sum(weights * slope)

    second, second_slope = jax.vmap(given_first)(z)
    return Products(
        product=jnp.sum(weights * first * second),
        slope_product=jnp.sum(weights * first_slope * second_slope),
    )


def standard_nodes(dtype: Any, kinks: Kinks) -> tuple[jax.Array, jax.Array]:
    """Returns nodes and weights, f[m] each, for a standard Gaussian."""
    return _nodes(jnp.ones((), dtype), jnp.zeros((), dtype), _bends(kinks), ())


def value_and_slope(activation: Activation, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns f(u) and f'(u), each like u."""
    return jax.jvp(activation, (u,), (jnp.ones_like(u),))


def smallest(dtype: Any) -> float:
    """The variance that stands for zero: means at zero are limits, also of f' at a kink."""
    return float(jnp.finfo(dtype).eps) ** 1.5


def _bends(kinks: Kinks) -> tuple[float, ...]:
    return tuple(sorted({*_BENDS, *kinks}))


def _nodes(scale: jax.Array, shift: jax.Array, bends: Any, cuts: Any) -> tuple[Any, Any]:
    """Nodes z and weights, f[m] each; cut at `bends` of shift + scale z, and at `cuts` of z."""
    dtype = scale.dtype
    fixed = jnp.asarray(_SPREAD, dtype)
    moving = (jnp.asarray(bends, dtype) - shift) / scale
    inside = jnp.concatenate([moving, jnp.asarray(cuts, dtype)])
    edges = jnp.sort(jnp.concatenate([fixed, jnp.clip(inside, _SPREAD[0], _SPREAD[-1])]))
    half = jnp.diff(edges)[:, None] / 2
    z = edges[:-1, None] + half * (1 + jnp.asarray(_POINTS[None], dtype))
    density = jnp.exp(-(z**2) / 2) / (2 * np.pi) ** 0.5
    return z.ravel(), (half * jnp.asarray(_WEIGHTS[None], dtype) * density).ravel()
