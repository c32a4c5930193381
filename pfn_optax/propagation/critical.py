"""The edge of chaos: variances of weights at which signals and gradients reach any depth."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.precision import double_precision
from pfn_optax.propagation.arguments import real, require_activation, require_range
from pfn_optax.propagation.kinks import kinks_of
from pfn_optax.propagation.mean_field import (
    MeanFieldStatus,
    fixed_variance,
    rounding,
    variance_at_one,
)
from pfn_optax.propagation.quadrature import Activation, Kinks, moments, smallest

Initializer = Callable[..., jax.Array]
Distribution = Literal["normal", "orthogonal"]

_LARGEST = 1e6  # variances where the search looks
_NUM_STARTS = 128


class CriticalPoint(NamedTuple):
    """A point of the critical line, chi_1 = 1.

    Attributes:
        weight_variance: f[], sigma_w^2, the weights' variance times fan-in; NaN if there is none.
        q: f[], the variance of preactivations that it keeps; NaN if there is none.
        status: i32[], `MeanFieldStatus.FOUND`, `ABSENT` or `NONFINITE`.
    """

    weight_variance: jax.Array
    q: jax.Array
    status: jax.Array


class CriticalInit(NamedTuple):
    """Initializers of a layer on the critical line, for `kernel_init` and `bias_init`.

    Attributes:
        kernel: (key, shape, dtype) -> array.
        bias: (key, shape, dtype) -> array.
        weight_variance: sigma_w^2, the kernel's variance times fan-in.
        bias_variance: sigma_b^2.
        q: the variance of preactivations that it keeps.
    """

    kernel: Initializer
    bias: Initializer
    weight_variance: float
    bias_variance: float
    q: float


def critical_line(
    activation: Activation, bias_variance: Any = 0.0, *, kinks: Kinks | None = None
) -> CriticalPoint:
    r"""Finds the variance of weights at which chi_1 = 1, for a variance of biases.

    With sigma_w^2 set to 1 / E[f'^2], the condition is one equation in q:

    .. math:: q - E[f(\sqrt q z)^2] / E[f'(\sqrt q z)^2] = \sigma_b^2

    A root counts only if depth leads to that q from 1. There may be none: ReLU has one at
    sigma_b = 0 alone (any q, given as 1), GELU and SiLU have none there.

    Jittable; `jax.vmap` over the bias variance gives the line.

    Args:
        activation: a JAX function of one number.
        bias_variance: sigma_b^2, f[].
        kinks: as for `variance_map`.

    Returns:
        The `CriticalPoint`.

    Raises:
        ValueError: if the activation is not elementwise, or the variance no scalar or negative.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.propagation import critical_line
        >>> found = critical_line(jnp.tanh, 0.05)
        >>> print(f"sigma_w^2 {found.weight_variance:.4f}, q* {found.q:.4f}")
        sigma_w^2 1.7610, q* 0.5700
    """
    require_activation(activation)
    (biases,) = real(bias_variance=bias_variance)
    require_range("bias_variance", biases, 0)
    return _critical_line(activation, biases, kinks_of(activation, kinks))


@functools.partial(jax.jit, static_argnums=(0, 2))
def _critical_line(activation: Activation, biases: jax.Array, kinks: Kinks) -> CriticalPoint:
    dtype = biases.dtype
    margin = rounding(dtype)

    def excess(q: jax.Array) -> jax.Array:
        """Of the left-hand side over the right, relative to q."""
        means = moments(activation, q, kinks)
        return 1 - (means.square / means.slope_square + biases) / q

    starts = jnp.asarray(np.geomspace(smallest(dtype), _LARGEST, _NUM_STARTS), dtype)
    signs = jnp.sign(jax.vmap(excess)(starts))
    # Where it rises with q, more biases want a larger variance: there the fixed point is stable.
    is_rise = (signs[:-1] < 0) & (signs[1:] > 0)
    first = jnp.argmax(is_rise)

    def halve(_, ends):
        low, high = ends
        middle = jnp.sqrt(low * high)
        is_below = excess(middle) < 0
        return jnp.where(is_below, middle, low), jnp.where(is_below, high, middle)

    low, high = jax.lax.fori_loop(
        0, jnp.finfo(dtype).nmant, halve, (starts[first], starts[first + 1])
    )
    q = jnp.where(is_rise.any(), jnp.sqrt(low * high), jnp.nan)
    q = jnp.where(jnp.abs(excess(starts[0])) <= margin, 0.0, q)
    q = jnp.where(jnp.abs(excess(jnp.ones_like(biases))) <= margin, 1.0, q)

    weights = 1 / moments(activation, q, kinks).slope_square
    reached = fixed_variance(activation, weights, biases, kinks)
    # Loose, since near sigma_b = 0 the variance hardly contracts and is hardly determined.
    is_found = jnp.abs(reached - q) <= 0.05 * q + 0.01
    is_known = jnp.isfinite(variance_at_one(activation, jnp.ones_like(biases), biases, kinks))
    status = jnp.where(is_found, MeanFieldStatus.FOUND, MeanFieldStatus.ABSENT)
    return CriticalPoint(
        weight_variance=jnp.where(is_found, weights, jnp.nan),
        q=jnp.where(is_found, q, jnp.nan),
        status=jnp.where(is_known, status, MeanFieldStatus.NONFINITE).astype(jnp.int32),
    )


def critical_init(
    activation: Activation,
    sigma_b: float = 0.0,
    *,
    distribution: Distribution = "normal",
    kinks: Kinks | None = None,
) -> CriticalInit:
    """Returns initializers for kernel and bias on the critical line of an activation.

    For Flax (Linen, NNX), Haiku, or any place that takes `jax.nn.initializers`. Kernels have their
    output axis last; all others are fan-in, as of a dense layer or a convolution. Give the bias its
    own: the kernel's variance is the critical one only beside biases of standard deviation
    `sigma_b`.

    Args:
        activation: the JAX function of one number that follows the layer.
        sigma_b: standard deviation of the biases.
        distribution: `"normal"`, or `"orthogonal"`: a matrix with orthonormal columns (rows, where
            it widens), of the same variance.
        kinks: as for `variance_map`.

    Returns:
        The `CriticalInit`.

    Raises:
        ValueError: if there is no critical point, an option is unknown, or `sigma_b` is negative.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pfn_optax.propagation import critical_init
        >>> init = critical_init(jnp.tanh, sigma_b=0.1)
        >>> print(f"{init.weight_variance:.5f}")
        1.42421
        >>> kernel = init.kernel(jax.random.key(0), (400, 300), jnp.float32)
        >>> print(f"{400 * kernel.var():.1f}")
        1.4

    Reference:
        Schoenholz, Gilmer, Ganguli, Sohl-Dickstein, "Deep information propagation", ICLR 2017;
        Pennington, Schoenholz, Ganguli, "Resurrecting the sigmoid", NeurIPS 2017 (orthogonal).
    """
    if distribution not in get_args(Distribution):
        options = ", ".join(get_args(Distribution))
        raise ValueError(f"distribution must be one of {options}, got {distribution!r}.")
    if not 0 <= sigma_b < math.inf:
        raise ValueError(f"sigma_b must be finite and not negative, got {sigma_b}.")
    # Also where a module is traced, such as in `nn.compact`, for these are constants of it.
    with double_precision(), jax.ensure_compile_time_eval():
        found = jax.device_get(critical_line(activation, sigma_b**2, kinks=kinks))
    if found.status == MeanFieldStatus.NONFINITE:
        raise ValueError("the activation is NaN or infinite on standard Gaussian numbers.")
    if found.status == MeanFieldStatus.ABSENT:
        raise ValueError(
            f"no critical point at sigma_b={sigma_b}: where gradients keep their size, the "
            "variance of the preactivations does not. Scale-free activations (ReLU, leaky ReLU, "
            "identity) need sigma_b=0; for others try another sigma_b, or initialise by "
            "jax.nn.initializers.he_normal."
        )
    weight_variance = float(found.weight_variance)
    normal = jax.nn.initializers.variance_scaling(weight_variance, "fan_in", "normal")
    biases = jax.nn.initializers.normal(sigma_b) if sigma_b else jax.nn.initializers.zeros
    return CriticalInit(
        kernel=normal if distribution == "normal" else _orthogonal(weight_variance),
        bias=biases,
        weight_variance=weight_variance,
        bias_variance=float(sigma_b) ** 2,
        q=float(found.q),
    )


def _orthogonal(weight_variance: float) -> Initializer:
    def init(key: Any, shape: Any, dtype: Any = jnp.float_, **options: Any) -> jax.Array:
        """Orthonormal rows of a widening layer have less than unit columns: scaled up to them."""
        fan_in, fan_out = math.prod(shape[:-1]), shape[-1]
        scale = math.sqrt(weight_variance * max(1.0, fan_out / fan_in))
        return jax.nn.initializers.orthogonal(scale)(key, shape, dtype, **options)

    return init
