"""Float64, for a while, on every JAX version."""

import contextlib
import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def double_precision() -> contextlib.AbstractContextManager[Any]:
    """Computes in float64 inside of a `with` block."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return importlib.import_module("jax.experimental").enable_x64()


def as_double(tree: Any) -> Any:
    """Real leaves as NumPy arrays in float64; integers and random keys as they are."""
    return jax.tree.map(_as_double, tree)


def _as_double(leaf: Any) -> Any:
    is_real = jnp.issubdtype(getattr(leaf, "dtype", np.result_type(type(leaf))), jnp.floating)
    return np.asarray(leaf, np.float64) if is_real else leaf
