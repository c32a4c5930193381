"""What `diagnose` accepts, checked before anything is computed, in one form."""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pfn_optax.diagnosis.setup import TrainingSetup
from pfn_optax.paths import named_leaves


def checked(setup: TrainingSetup) -> TrainingSetup:
    """Returns the setup with a tree of arrays for parameters.

    Raises:
        ValueError: if there is nothing to train, or the loss is no real scalar.
        TypeError: if a leaf is not an array, or the optimizer no optax transformation.
    """
    if setup.optimizer is not None and not isinstance(
        setup.optimizer, optax.GradientTransformation
    ):
        raise TypeError(
            "optimizer must be an optax transformation, such as optax.adam(1e-3), got "
            f"{type(setup.optimizer).__name__}: of an nnx.Optimizer, pass `.tx` and, as opt_state, "
            "`.opt_state`."
        )
    setup = _without_module(setup)
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


def _without_module(setup: TrainingSetup) -> TrainingSetup:
    """The parameters of a module taken out of it; what takes the module puts them back."""
    nnx: Any = sys.modules.get("flax.nnx")
    if nnx is None or not isinstance(setup.params, nnx.Module):
        return setup
    graph, params, rest = nnx.split(setup.params, nnx.Param, ...)

    def of_params(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda params, batch: function(
            nnx.merge(graph, params, rest, copy=True), batch
        )  # a copy: batch norm and dropout write into their module

    return replace(
        setup,
        loss=of_params(setup.loss),
        model=None if setup.model is None else of_params(setup.model),
        params=params,
    )
