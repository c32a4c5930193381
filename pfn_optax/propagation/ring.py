"""The last records of a kind in an array of fixed size."""

import jax
import numpy as np


def require_ring(every: int, capacity: int) -> None:
    """Checks how often is recorded, and how many records are kept.

    Raises:
        ValueError: if one is not positive.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}.")
    if capacity < 1:
        raise ValueError(f"capacity must be at least 1, got {capacity}.")


def write(ring: jax.Array, count: jax.Array, value: jax.Array) -> jax.Array:
    """Returns the ring with a record in it, where there were `count` before."""
    return ring.at[count % len(ring)].set(value.astype(ring.dtype))


def order_of(count: int, capacity: int) -> np.ndarray:
    """Returns the rows of the ring from the oldest record to the newest."""
    return np.arange(max(0, count - capacity), count) % capacity
