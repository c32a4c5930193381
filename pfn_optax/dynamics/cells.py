"""Recurrent cells of Flax as steps of their carry."""

from typing import Any

import jax
import jax.numpy as jnp

from pfn_optax.dynamics.steps import Step


def cell_step(cell: Any, variables: Any = None) -> Step:
    """Makes a step from a recurrent cell: (carry, x) -> carry.

    Args:
        cell: a Linen cell (`nn.LSTMCell`, `nn.GRUCell`, ...), or one of NNX, or any function that
            returns (carry, output).
        variables: of the Linen cell, as `{"params": params}`; None for NNX and functions.

    Returns:
        The step. Its inputs are sequences without an axis for the batch, f[num_steps, features], as
        is the carry: the exponents are of one trajectory. Map over a batch by `jax.vmap`.

    Raises:
        ValueError: from here, if a Linen cell comes without variables; from the step, if the carry
            has an axis for the batch.

    Example:
        >>> import jax
        >>> from flax import linen as nn
        >>> from pfn_optax.dynamics import cell_step, lyapunov_spectrum
        >>> cell, key = nn.GRUCell(features=4), jax.random.key(0)
        >>> sequence = jax.random.normal(key, (20, 3))
        >>> carry = cell.initialize_carry(key, (3,))
        >>> step = cell_step(cell, cell.init(key, carry, sequence[0]))
        >>> lyapunov_spectrum(step, carry, inputs=sequence).exponents.shape
        (4,)
    """
    is_linen = hasattr(cell, "apply") and hasattr(cell, "init")
    if is_linen and variables is None:
        raise ValueError("a Linen cell needs its variables: cell_step(cell, {'params': params}).")
    num_axes = getattr(cell, "num_feature_axes", None)

    def step(carry, x):
        for leaf in jax.tree.leaves(carry):
            # The features and, in a convolutional cell, the space.
            if num_axes is not None and jnp.ndim(leaf) > num_axes:
                raise ValueError(
                    f"the carry of {type(cell).__name__} has {num_axes} axes without a batch, got "
                    f"shape {jnp.shape(leaf)}: take one example, and map over more by jax.vmap."
                )
        after, _ = cell(carry, x) if variables is None else cell.apply(variables, carry, x)
        return after

    return step
