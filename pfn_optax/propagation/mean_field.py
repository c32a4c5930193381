r"""Infinitely wide networks at initialisation: what depth does to lengths and angles.

With weights of variance sigma_w^2 / fan_in and biases of variance sigma_b^2, preactivations of a
wide layer are Gaussian, and two numbers say all: their variance q, and the correlation c of those
of two inputs. Each layer maps them by

.. math:: q' = \sigma_w^2 E[f(\sqrt q z)^2] + \sigma_b^2, \quad
          c' = (\sigma_w^2 E[f(u_1) f(u_2)] + \sigma_b^2) / q'
"""

import enum
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pfn_optax.propagation.arguments import real, require_activation, require_range
from pfn_optax.propagation.kinks import kinks_of
from pfn_optax.propagation.quadrature import Activation, Kinks, moments, products, smallest


class MeanFieldStatus(enum.IntEnum):
    """How the search for a fixed point ended."""

    FOUND = 1
    """The variance settles; everything else is at its fixed point."""
    UNBOUNDED = 2
    """The variance grows without bound with depth: no fixed point."""
    ABSENT = 3
    """No critical point at this bias variance (`critical_line` only)."""
    NONFINITE = 4
    """An argument, or the activation, is NaN or infinite."""


class Phase(enum.IntEnum):
    """On which side of the critical line, by chi_1."""

    ORDERED = -1
    """chi_1 < 1: inputs become alike, gradients vanish."""
    CRITICAL = 0
    """chi_1 within 1e-3 of 1: depth scales of a thousand layers and more."""
    CHAOTIC = 1
    """chi_1 > 1: alike inputs part, gradients explode."""


class MeanField(NamedTuple):
    """Where depth leads.

    Attributes:
        q: f[], the variance that is kept; infinite if there is none.
        c: f[], the correlation that two different inputs reach; NaN if q is infinite.
        chi_1: f[], factor per layer of squared gradients and of small distances. If q is infinite,
            its limit.
        xi_q: f[], layers in which a deviation of the variance falls by e; infinite if it never
            does.
        xi_c: f[], the same of the correlation: how deep a signal reaches. NaN if q is infinite.
        phase: i32[], a `Phase`.
        status: i32[], a `MeanFieldStatus`.
    """

    q: jax.Array
    c: jax.Array
    chi_1: jax.Array
    xi_q: jax.Array
    xi_c: jax.Array
    phase: jax.Array
    status: jax.Array


_CRITICAL = 1e-3
_LARGEST = 2.0**60  # a variance beyond counts as infinite


def variance_map(
    activation: Activation,
    q: Any,
    weight_variance: Any,
    bias_variance: Any = 0.0,
    *,
    kinks: Kinks | None = None,
) -> jax.Array:
    r"""Returns the variance of the next layer's preactivations.

    .. math:: q' = \sigma_w^2 E[f(\sqrt q z)^2] + \sigma_b^2

    Args:
        activation: a JAX function of one number.
        q: variance of this layer's preactivations, f[].
        weight_variance: sigma_w^2, the weights' variance times fan-in, f[].
        bias_variance: sigma_b^2, f[].
        kinks: preactivations where the activation has a kink or jump, as (0, 6) of ReLU6; found
            between -12 and 12 if not given. With them cut out, means are right to a relative 1e-6
            (in float32, to its rounding).

    Returns:
        f[].

    Raises:
        ValueError: if the activation is not elementwise, or a number is no scalar or negative.

    Example:
        >>> import jax
        >>> from pfn_optax.propagation import variance_map
        >>> print(f"{variance_map(jax.nn.relu, 3.0, 2.0):.4f}")  # He's initialisation keeps it
        3.0000

    Reference:
        Poole, Lahiri, Raghu, Sohl-Dickstein, Ganguli, "Exponential expressivity in deep neural
        networks through transient chaos", NeurIPS 2016.
    """
    require_activation(activation)
    q, weights, biases = real(q=q, weight_variance=weight_variance, bias_variance=bias_variance)
    for name, value in (("q", q), ("weight_variance", weights), ("bias_variance", biases)):
        require_range(name, value, 0)
    return weights * moments(activation, q, kinks_of(activation, kinks)).square + biases


def correlation_map(
    activation: Activation,
    c: Any,
    q: Any,
    weight_variance: Any,
    bias_variance: Any = 0.0,
    *,
    kinks: Kinks | None = None,
) -> jax.Array:
    r"""Returns the correlation of the next layer's preactivations on two inputs.

    .. math:: c' = (\sigma_w^2 E[f(u_1) f(u_2)] + \sigma_b^2) /
                   (\sigma_w^2 E[f(u_1)^2] + \sigma_b^2)

    for Gaussian u_1, u_2 of variance q and correlation c.

    Args:
        activation: a JAX function of one number.
        c: correlation of this layer's preactivations, f[] from -1 to 1.
        q: their variance on either input, f[].
        weight_variance: sigma_w^2, the weights' variance times fan-in, f[].
        bias_variance: sigma_b^2, f[].
        kinks: as for `variance_map`.

    Returns:
        f[].

    Raises:
        ValueError: as for `variance_map`, or if c is out of range.

    Example:
        >>> import jax
        >>> from pfn_optax.propagation import correlation_map
        >>> print(f"{correlation_map(jax.nn.relu, 0.0, 1.0, 2.0):.4f}")  # 1 / pi
        0.3183

    Reference:
        Cho & Saul, "Kernel methods for deep learning", NeurIPS 2009 (ReLU in closed form).
    """
    require_activation(activation)
    c, q, weights, biases = real(
        c=c, q=q, weight_variance=weight_variance, bias_variance=bias_variance
    )
    require_range("c", c, -1, 1)
    for name, value in (("q", q), ("weight_variance", weights), ("bias_variance", biases)):
        require_range(name, value, 0)
    kinks = kinks_of(activation, kinks)
    after = weights * moments(activation, q, kinks).square + biases
    return (weights * products(activation, q, c, kinks).product + biases) / after


def mean_field(
    activation: Activation,
    weight_variance: Any,
    bias_variance: Any = 0.0,
    *,
    kinks: Kinks | None = None,
) -> MeanField:
    r"""Finds the fixed points of variance and correlation, and how fast depth approaches them.

    .. math:: \chi_1 = \sigma_w^2 E[f'(\sqrt{q^*} z)^2], \quad
              \xi_c^{-1} = -\ln (\sigma_w^2 E[f'(u_1) f'(u_2)]), \quad
              \xi_q^{-1} = -\ln (\chi_1 + \sigma_w^2 E[f f''])

    The variance is one that layer after layer leads to from 1, so of scale-free activations, which
    keep any variance (ReLU at 2), it is 1. The correlation is one that inputs of non-negative
    correlation lead to.

    Jittable; for a phase diagram, `jax.vmap` over the variances. Compiled once for each activation
    and dtype: pass the function itself rather than a new lambda each time.

    Args:
        activation: a JAX function of one number.
        weight_variance: sigma_w^2, the weights' variance times fan-in, f[].
        bias_variance: sigma_b^2, f[].
        kinks: as for `variance_map`.

    Returns:
        The `MeanField`.

    Raises:
        ValueError: as for `variance_map`.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.propagation import Phase, mean_field
        >>> found = mean_field(jnp.tanh, 2.5, 0.05)
        >>> print(f"chi_1 {found.chi_1:.4f}, c* {found.c:.4f}, xi_c {found.xi_c:.2f}")
        chi_1 1.1335, c* 0.4468, xi_c 11.80
        >>> Phase(int(found.phase)).name
        'CHAOTIC'

    Reference:
        Schoenholz, Gilmer, Ganguli, Sohl-Dickstein, "Deep information propagation", ICLR 2017.
    """
    require_activation(activation)
    weights, biases = real(weight_variance=weight_variance, bias_variance=bias_variance)
    require_range("weight_variance", weights, 0)
    require_range("bias_variance", biases, 0)
    return _mean_field(activation, weights, biases, kinks_of(activation, kinks))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _mean_field(activation: Activation, weights: Any, biases: Any, kinks: Kinks) -> MeanField:
    q = fixed_variance(activation, weights, biases, kinks)
    is_bounded = jnp.isfinite(q)
    at_q = moments(activation, jnp.where(is_bounded, q, _LARGEST), kinks)
    chi_1 = weights * at_q.slope_square
    chi_1 = jnp.where(is_bounded | jnp.isfinite(chi_1), chi_1, jnp.inf)
    c, slope = _fixed_correlation(activation, weights, biases, kinks, q, chi_1)
    # One number that is NaN if anything is: the activation may overflow elsewhere, but not here.
    is_known = jnp.isfinite(variance_at_one(activation, weights, biases, kinks))
    phase = jnp.where(chi_1 > 1, Phase.CHAOTIC, Phase.ORDERED)
    status = jnp.where(is_bounded, MeanFieldStatus.FOUND, MeanFieldStatus.UNBOUNDED)
    return MeanField(
        q=jnp.where(is_known, q, jnp.nan),
        c=jnp.where(is_bounded & is_known, c, jnp.nan),
        chi_1=jnp.where(is_known, chi_1, jnp.nan),
        xi_q=jnp.where(is_known, _depth_scale(jnp.abs(weights * at_q.growth)), jnp.nan),
        xi_c=jnp.where(is_bounded & is_known, _depth_scale(slope), jnp.nan),
        phase=jnp.where(jnp.abs(chi_1 - 1) <= _CRITICAL, Phase.CRITICAL, phase).astype(jnp.int32),
        status=jnp.where(is_known, status, MeanFieldStatus.NONFINITE).astype(jnp.int32),
    )


def fixed_variance(activation: Activation, weights: Any, biases: Any, kinks: Kinks) -> jax.Array:
    """Returns the variance that the map leads to from 1, f[]: infinite if it grows for ever.

    Doubled until the map shrinks it, then bisected: where the map barely contracts, iterating it
    would take as many rounds as the depth scale.
    """
    margin = rounding(weights.dtype)
    bottom = smallest(weights.dtype)

    def growth(q: jax.Array) -> jax.Array:
        return (weights * moments(activation, q, kinks).square + biases) / q - 1

    def is_growing(q: jax.Array) -> jax.Array:
        return ~(growth(q) < -margin)  # an overflow grows too

    at_one = growth(jnp.ones_like(weights))
    top = jax.lax.while_loop(
        lambda q: (q < _LARGEST) & is_growing(q), lambda q: 2 * q, jnp.ones_like(weights)
    )
    low = jnp.where(top > 1, top / 2, bottom)

    def halve(_, ends):
        low, high = ends
        middle = jnp.sqrt(low * high)
        is_above = growth(middle) > 0
        return jnp.where(is_above, middle, low), jnp.where(is_above, high, middle)

    low, high = jax.lax.fori_loop(0, _num_halvings(weights.dtype), halve, (low, top))
    vanishes = (top <= 1) & (growth(jnp.full_like(weights, bottom)) <= margin)
    q = jnp.where(vanishes, 0.0, jnp.sqrt(low * high))
    q = jnp.where(top >= _LARGEST, jnp.inf, q)
    return jnp.where(jnp.abs(at_one) <= margin, 1.0, q)


def variance_at_one(activation: Activation, weights: Any, biases: Any, kinks: Kinks) -> jax.Array:
    """Returns the variance that follows 1, f[]: where the search starts."""
    return weights * moments(activation, jnp.ones_like(weights), kinks).square + biases


def rounding(dtype: Any) -> float:
    """The relative error of a mean: what differs from 1 by less counts as 1."""
    return max(32 * float(jnp.finfo(dtype).eps), 1e-9)


def _num_halvings(dtype: Any) -> int:
    """Until the ends, e^46 apart at most, agree to rounding."""
    return jnp.finfo(dtype).nmant + 7


def _fixed_correlation(
    activation: Activation, weights: Any, biases: Any, kinks: Kinks, q: Any, chi_1: Any
) -> tuple[jax.Array, jax.Array]:
    """Returns c* and the slope of the correlation map there, f[] each.

    The map has a Taylor series of non-negative coefficients, so on [0, 1] it is convex. It takes 1
    to 1 with slope chi_1: up to 1 that is the fixed point, and beyond, Newton's method climbs to
    the other one from 0 and cannot overshoot.
    """
    is_parting = (chi_1 > 1 + rounding(weights.dtype)) & jnp.isfinite(q)
    bounded = jnp.where(jnp.isfinite(q), q, 1.0)
    after = weights * moments(activation, bounded, kinks).square + biases

    def at(c: jax.Array) -> tuple[jax.Array, jax.Array]:
        means = products(activation, bounded, c, kinks)
        return (weights * means.product + biases) / after, weights * means.slope_product

    def climb(carry):
        c, _, _, round_ = carry
        mapped, slope = at(c)
        step = jnp.where(slope < 1, (mapped - c) / jnp.where(slope < 1, 1 - slope, 1.0), 0.0)
        return jnp.clip(c + step, 0.0, 1.0), slope, step, round_ + 1

    def is_climbing(carry):
        _, _, step, round_ = carry
        # Near the critical line, a double root, every round still halves the distance.
        return is_parting & (step > 4 * jnp.finfo(step.dtype).eps) & (round_ < 60)

    start = (jnp.zeros_like(q), jnp.zeros_like(q), jnp.ones_like(q), jnp.int32(0))
    c, slope, _, _ = jax.lax.while_loop(is_climbing, climb, start)
    return jnp.where(is_parting, c, 1.0), jnp.where(is_parting, slope, chi_1)


def _depth_scale(factor: jax.Array) -> jax.Array:
    """-1 / ln(factor) layers: none for a factor of 0, infinite from 1 on."""
    settles = factor < 1 - rounding(factor.dtype)
    scale = -1 / jnp.log(jnp.where(settles, factor, 0.5))
    return jnp.where(settles, scale, jnp.inf)
