"""What `diagnose` accepts, checked before anything is computed, in one form."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pfn_optax.diagnosis.setup import TrainingSetup
from pfn_optax.diagnosis.unwrapping import is_nnx_optimizer, unwrapped
from pfn_optax.paths import named_leaves


def checked(setup: TrainingSetup) -> TrainingSetup:
    """Returns the setup with a tree of arrays for parameters, and an optax transformation.

    Raises:
        ValueError: if there is nothing to train, the loss is no real scalar, or the optimizer's
            state is not its own.
        TypeError: if a leaf is not an array, or the optimizer is none.
    """
    if setup.optimizer is not None and not is_optimizer(setup.optimizer):
        raise TypeError(
            "optimizer must be an optax transformation, such as optax.adam(1e-3), or an "
            f"nnx.Optimizer, got {type(setup.optimizer).__name__}."
        )
    setup = unwrapped(setup)
    for kind, tree in (("params", setup.params), ("batch", setup.batch)):
        for path, leaf in named_leaves(tree):
            try:
                jax.typeof(leaf)
            except TypeError as error:
                raise TypeError(
                    f"{'/'.join((kind, *path))} is a {type(leaf).__name__}, not an array: close "
                    "over it in the loss (functools.partial, lambda)."
                ) from error
    arrays = replace(
        setup,
        params=jax.tree.map(jnp.asarray, setup.params),
        batch=jax.tree.map(jnp.asarray, setup.batch),
    )
    if not any(is_floating(leaf) for leaf in jax.tree.leaves(arrays.params)):
        raise ValueError(
            "there are no parameters to train: params has no leaf of floating numbers. Pass what "
            "jax.grad differentiates by."
        )
    _require_scalar(arrays)
    return arrays


def is_optimizer(value: Any) -> bool:
    """Whether it is something that `diagnose` takes for an optimizer."""
    return isinstance(value, optax.GradientTransformation) or is_nnx_optimizer(value)


def is_floating(leaf: Any) -> bool:
    """Whether a leaf can have a gradient."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def _require_scalar(setup: TrainingSetup) -> None:
    def scalar(params: Any, batch: Any) -> Any:
        found = setup.loss(params, batch)
        if not setup.has_aux:
            return found
        if not isinstance(found, tuple):
            raise ValueError(
                f"with has_aux=True the loss must return (loss, anything), got "
                f"{type(found).__name__}: leave has_aux out."
            )
        return found[0]

    value = jax.eval_shape(scalar, setup.params, setup.batch)
    is_scalar = getattr(value, "shape", None) == () and jnp.issubdtype(value.dtype, jnp.floating)
    if not is_scalar:
        raise ValueError(
            f"the loss must return one real number, got {value}: reduce it (jnp.mean), or pass "
            "has_aux=True if it returns (loss, anything)."
        )
