"""Units that pass nothing on: dead ones, and those on the flat ends of their activation."""

from typing import Any

import jax
import jax.numpy as jnp

from pfn_optax.propagation.arguments import require_activation
from pfn_optax.propagation.quadrature import Activation, value_and_slope


def dead_units(activations: Any) -> jax.Array:
    """Returns the share of units that are zero on the whole batch, as of ReLU.

    Args:
        activations: f[..., width], all axes but the last are samples (and positions).

    Returns:
        f32[] from 0 to 1.

    Raises:
        ValueError: if there are fewer than two axes, no entries, or they are not real and floating.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.propagation import dead_units
        >>> print(dead_units(jnp.asarray([[0.0, 0.0, 3.0, 0.0], [0.0, 1.0, 0.0, 2.0]])))
        0.25
    """
    values = require_samples(activations)
    is_dead = jnp.all(values == 0, axis=tuple(range(values.ndim - 1)))
    return jnp.mean(is_dead, dtype=jnp.float32)


def saturated_share(
    activations: Any, *, lower: float, upper: float, margin: float = 0.025
) -> jax.Array:
    """Returns the share of entries near an end of the activation's range.

    Of activations alone, as a tap gives them; where preactivations are at hand, `flat_share` asks
    the derivative.

    Args:
        activations: f[..., width].
        lower: the least value the activation takes, -1 of tanh, 0 of the sigmoid.
        upper: the largest, 1 of both.
        margin: what counts as near, a share of the range. Within the default the slope of tanh
            and of the sigmoid is below a tenth of its largest.

    Returns:
        f32[] from 0 to 1.

    Raises:
        ValueError: as `dead_units`, or if the range is empty or infinite, or the margin no share.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.propagation import saturated_share
        >>> activations = jnp.tanh(jnp.asarray([[-9.0, 0.0, 0.5, 9.0]]))
        >>> print(saturated_share(activations, lower=-1, upper=1))
        0.5
    """
    if not -float("inf") < lower < upper < float("inf"):
        raise ValueError(f"the range must be finite and not empty, got {lower} to {upper}.")
    if not 0 <= margin < 0.5:
        raise ValueError(f"margin must be at least 0 and less than 0.5, got {margin}.")
    values = require_samples(activations)
    near = margin * (upper - lower)
    return jnp.mean((values <= lower + near) | (values >= upper - near), dtype=jnp.float32)


def flat_share(activation: Activation, preactivations: Any, *, threshold: float = 0.1) -> jax.Array:
    """Returns the share of entries where the activation's derivative is small.

    Args:
        activation: a JAX function of one number.
        preactivations: f[..., width].
        threshold: |f'| up to it is small.

    Returns:
        f32[] from 0 to 1.

    Raises:
        ValueError: as `dead_units`, or if the activation is not elementwise, or the threshold
            negative.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pfn_optax.propagation import flat_share
        >>> print(flat_share(jax.nn.relu, jnp.asarray([[-1.0, 2.0], [-3.0, -1.0]])))
        0.75
    """
    require_activation(activation)
    if not threshold >= 0:
        raise ValueError(f"threshold must not be negative, got {threshold}.")
    _, slope = value_and_slope(activation, require_samples(preactivations))
    return jnp.mean(jnp.abs(slope) <= threshold, dtype=jnp.float32)


def require_samples(activations: Any) -> jax.Array:
    """Returns activations f[..., width] as they are.

    Raises:
        ValueError: if there are fewer than two axes, no entries, or they are not real and floating.
    """
    shape, dtype = jnp.shape(activations), jnp.result_type(activations)
    if len(shape) < 2 or 0 in shape:
        raise ValueError(
            f"activations must be samples by units, with at least one of each, got shape {shape}."
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"activations must be real floating numbers, got {dtype}.")
    return jnp.asarray(activations)
