"""Gaussian noise after every step: how much, where, and which."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from pfn_optax.dynamics.gradients.system import System
from pfn_optax.paths import named_leaves

Scale = Callable[[Any, jax.Array], jax.Array]
"""(params, f[n]) -> standard deviations f[n]."""


def noise_scale(noise: Any, system: System) -> Scale:
    """Spreads what the user gave over the state.

    Args:
        noise: a number, a tree like the state of numbers or arrays, or a function of
            (params, state) that returns one of these.
        system: whose state.

    Returns:
        The standard deviations as a function.

    Raises:
        ValueError: if the noise is negative or zero everywhere, or does not fit the state.
    """
    if not callable(noise):
        _require_positive(noise)
        constant = _spread(noise, system.unravel(system.start))
        return lambda params, x: constant
    return lambda params, x: _spread(noise(params, system.unravel(x)), system.unravel(x))


def draw(key: jax.Array, step: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """The standard normal draws of one step; the same again for the same key."""
    return jax.random.normal(jax.random.fold_in(key, step), shape, dtype)


def inverse(scale: jax.Array) -> jax.Array:
    """1 / scale, and zero where there is no noise."""
    is_noisy = scale != 0
    return jnp.where(is_noisy, 1 / jnp.where(is_noisy, scale, 1), 0)


def _require_positive(noise: Any) -> None:
    leaves = named_leaves(noise)
    known = [leaf for _, leaf in leaves if not isinstance(leaf, Tracer)]
    for names, leaf in leaves:
        if not isinstance(leaf, Tracer) and not np.all(np.asarray(leaf) >= 0):
            raise ValueError(
                f"noise{''.join('.' + name for name in names)} must be a standard deviation, at "
                f"least 0, got {leaf}."
            )
    if len(known) == len(leaves) and not any(np.any(np.asarray(leaf) > 0) for leaf in known):
        raise ValueError(
            f"noise must be positive somewhere, got {noise}: the method weighs paths by their "
            "noise. Without any use 'backprop' or 'shadowing'."
        )


def _spread(noise: Any, state: Any) -> jax.Array:
    flat = ravel_pytree(state)[0]
    if jax.tree.structure(noise) != jax.tree.structure(state) and not (
        jax.tree.structure(noise) == jax.tree.structure(0) and not jnp.ndim(noise)
    ):
        raise ValueError(
            "noise must be one number or a tree like the state, "
            f"{jax.tree.structure(state)}, got {jax.tree.structure(noise)}."
        )
    if jax.tree.structure(noise) != jax.tree.structure(state):
        noise = jax.tree.map(lambda _: noise, state)
    for (names, leaf), scale in zip(named_leaves(state), jax.tree.leaves(noise), strict=True):
        shape = jnp.shape(scale)
        if len(shape) > leaf.ndim or any(
            size not in (1, like) for size, like in zip(shape[::-1], leaf.shape[::-1], strict=False)
        ):
            raise ValueError(
                f"noise of state leaf {'.'.join(names) or 'itself'} has the shape {list(shape)}, "
                f"which does not spread over {list(leaf.shape)}."
            )
    spread = jax.tree.map(
        lambda leaf, scale: jnp.broadcast_to(jnp.asarray(scale, leaf.dtype), leaf.shape),
        state,
        noise,
    )
    return ravel_pytree(spread)[0].astype(flat.dtype)
