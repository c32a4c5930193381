"""What is measured of a layer's activations unless something else is asked for."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.propagation.rank import activation_rank, mean_cosine
from pfn_optax.propagation.saturation import dead_units, saturated_share


def activation_statistics(
    pre: Any, post: Any, *, bounds: tuple[float, float] | None = None, max_rows: int = 256
) -> dict[str, jax.Array]:
    """Measures the activations of one layer.

    Args:
        pre: preactivations, f[..., width]; all axes but the last are samples (and positions).
        post: activations, f[..., width].
        bounds: the ends of the activation's range, (-1, 1) of tanh; None if it has none.
        max_rows: rank and cosine are of at most so many rows, evenly spaced; the rest is of all.

    Returns:
        Scalars: of the activations `activation_rank`, `mean_cosine`, `dead_units`,
        `saturated_share` (NaN without bounds), of the preactivations `mean_square` (the q of mean
        field), and of both `nonfinite_share`.

    Raises:
        ValueError: if they are not real floating numbers, or `max_rows` is less than 2.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.propagation import activation_statistics
        >>> pre = jnp.asarray([[3.0, -4.0], [4.0, -3.0]])
        >>> found = activation_statistics(pre, jnp.maximum(pre, 0))
        >>> print(found["mean_square"], found["dead_units"], found["activation_rank"].round(3))
        12.5 0.5 1.0
    """
    if max_rows < 2:
        raise ValueError(f"max_rows must be at least 2, got {max_rows}.")
    pre, post = _rows(pre), _rows(post)
    few = post
    if len(post) > max_rows:
        few = post[np.linspace(0, len(post) - 1, max_rows).round().astype(int)]
    saturated = jnp.full((), jnp.nan, jnp.float32)
    if bounds is not None:
        saturated = saturated_share(post, lower=bounds[0], upper=bounds[1])
    is_broken = (~jnp.isfinite(pre)).mean(dtype=jnp.float32)
    is_broken_after = (~jnp.isfinite(post)).mean(dtype=jnp.float32)
    wide = pre.astype(jnp.promote_types(pre.dtype, jnp.float32))
    return {
        "activation_rank": activation_rank(few),
        "mean_cosine": mean_cosine(few),
        "dead_units": dead_units(post),
        "saturated_share": saturated,
        "mean_square": jnp.mean(wide**2),
        "nonfinite_share": jnp.maximum(is_broken, is_broken_after),
    }


def _rows(values: Any) -> jax.Array:
    values = jnp.asarray(values)
    return values.reshape(-1, values.shape[-1] if values.ndim else 1)
