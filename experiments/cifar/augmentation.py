"""Crops and mirror images, drawn and made on the device, inside the compiled step.

The host only picks the images of a batch, and sends bytes.
"""

import jax
import jax.numpy as jnp


def augmented(key: jax.Array, images: jax.Array, *, padding: int = 4) -> jax.Array:
    """Pad with black, crop back to the old size at random, mirror every other image.

    Args:
        key: Random key of the batch.
        images: `u8[batch, height, width, channels]`.
        padding: Pixels added on each side.

    Returns:
        Images of the same shape.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> images = jnp.ones((2, 4, 4, 1), jnp.uint8)
        >>> augmented(jax.random.key(0), images, padding=1).shape
        (2, 4, 4, 1)
        >>> augmented(jax.random.key(0), images, padding=0).min()
        Array(1, dtype=uint8)
    """
    crop_key, mirror_key = jax.random.split(key)
    batch, *shape = images.shape
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corners = jax.random.randint(crop_key, (batch, 2), 0, 2 * padding + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (*corner, 0), shape)

    crops = jax.vmap(crop)(padded, corners)
    is_mirrored = jax.random.bernoulli(mirror_key, shape=(batch, 1, 1, 1))
    return jnp.where(is_mirrored, crops[:, :, ::-1], crops)
