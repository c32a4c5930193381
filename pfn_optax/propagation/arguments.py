"""What the functions of mean field accept."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from pfn_optax.propagation.quadrature import Activation


def require_activation(activation: Activation) -> None:
    """Checks, by shapes alone, that a function maps real numbers to real numbers, one by one.

    Raises:
        ValueError: if it does not.
    """
    given = jax.ShapeDtypeStruct((3,), jnp.float32)
    found = jax.eval_shape(activation, given)
    if getattr(found, "shape", None) != (3,) or not jnp.issubdtype(found.dtype, jnp.floating):
        raise ValueError(
            f"activation must map real numbers one by one, like jnp.tanh, but turns f32[3] into "
            f"{found}. What mixes units (softmax, layer norm) has no mean-field map of this kind."
        )


def real(**values: Any) -> tuple[jax.Array, ...]:
    """Returns scalars in one dtype, at least float32.

    Raises:
        ValueError: if one is not a real scalar; it is named.
    """
    for name, value in values.items():
        if jnp.shape(value) != () or jnp.iscomplexobj(value):
            raise ValueError(
                f"{name} must be a real scalar, got shape {jnp.shape(value)} and dtype "
                f"{jnp.result_type(value)}: use jax.vmap for many."
            )
    dtype = jnp.promote_types(jnp.result_type(float, *values.values()), jnp.float32)
    return tuple(jnp.asarray(value, dtype) for value in values.values())


def require_range(name: str, value: Any, low: float, high: float = float("inf")) -> None:
    """Checks a value that is known here; inside of jit it passes.

    Raises:
        ValueError: if it is out of range. NaN passes, to become a status.
    """
    if not isinstance(value, Tracer) and (value < low or value > high):
        bounds = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
        raise ValueError(f"{name} must be {bounds}, got {float(value):g}.")
