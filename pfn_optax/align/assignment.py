"""The assignment problem, solved by a library: scipy's on the host, optax's inside jit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer


def best_assignment(profit: Any) -> Any:
    r"""Matches rows and columns so that the sum of the matched entries is largest.

    $$\max_\sigma \sum_i \text{profit}_{i, \sigma(i)}$$

    Arrays that are known go to `scipy.optimize.linear_sum_assignment` on the host, at every size:
    it was the faster one from n = 16 to 2048 (`benchmarks/alignment.py`). Inside `jax.jit` there
    is no host to go to, and `optax.assignment.hungarian_algorithm` solves it on the device.

    Args:
        profit: f[n, n].

    Returns:
        i32[n], the column of each row.

    Raises:
        ValueError: if profit is not a square matrix, or (outside of jit) has NaN entries.

    Example:
        >>> import numpy as np
        >>> from pfn_optax.align.assignment import best_assignment
        >>> best_assignment(np.array([[1.0, 5.0], [2.0, 3.0]])).tolist()
        [1, 0]

    Reference:
        Crouse, "On implementing 2D rectangular assignment algorithms", IEEE Transactions on
        Aerospace and Electronic Systems 2016.
    """
    shape = jnp.shape(profit)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"an assignment needs a square matrix of profits, got the shape {shape}.")
    if isinstance(profit, Tracer):
        rows, columns = optax.assignment.hungarian_algorithm(-profit)
        return jnp.zeros(shape[0], jnp.int32).at[rows].set(columns.astype(jnp.int32))
    from scipy.optimize import linear_sum_assignment

    profit = np.asarray(jax.device_get(profit))
    if np.isnan(profit).any():
        raise ValueError("the profits of an assignment have NaN entries: look at what they are of.")
    return linear_sum_assignment(profit, maximize=True)[1].astype(np.int32)
