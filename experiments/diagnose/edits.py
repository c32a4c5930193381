"""Changes of the parameters that a network begins with, and masks of them for optimizers."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.diagnose.recipe import Edit, Params


def edited(path: str, change: Callable[[jax.Array], jax.Array]) -> Edit:
    """An edit of the leaves whose path holds a name.

    Args:
        path: part of the path, such as `"Dense_2/kernel"`.
        change: of each such leaf.

    Returns:
        The edit, which raises ValueError where there is no such leaf.
    """

    def edit(params: Params) -> Params:
        is_found = False

        def change_one(where: Any, leaf: jax.Array) -> jax.Array:
            nonlocal is_found
            name = "/" + jax.tree_util.keystr(where, simple=True, separator="/") + "/"
            if f"/{path}/" not in name:
                return leaf
            is_found = True
            return change(leaf).astype(leaf.dtype)

        params = jax.tree_util.tree_map_with_path(change_one, params)
        if not is_found:
            raise ValueError(f"no parameter has {path} in its path")
        return params

    return edit


def scaled(path: str, factor: float) -> Edit:
    """An edit that multiplies leaves by a factor."""
    return edited(path, lambda leaf: leaf * factor)


def chained(*edits: Edit) -> Edit:
    """One edit after another."""
    return lambda params: functools.reduce(lambda now, edit: edit(now), edits, params)


def rank_limited(rank: int) -> Callable[[jax.Array], jax.Array]:
    """Of a matrix, its nearest one of that rank, at the same norm."""

    def change(kernel: jax.Array) -> jax.Array:
        left, values, right = jnp.linalg.svd(kernel, full_matrices=False)
        near = (left[:, :rank] * values[:rank]) @ right[:rank]
        return near * (jnp.linalg.norm(values) / jnp.linalg.norm(values[:rank]))

    return change


def mask_only(name: str) -> Callable[[Params], Any]:
    """Of parameters, True where the path holds a name."""
    return lambda params: jax.tree_util.tree_map_with_path(
        lambda path, _: name in jax.tree_util.keystr(path), params
    )


def labels_but(name: str) -> Callable[[Params], Any]:
    """Of parameters, `"freeze"` where the path holds a name, else `"train"`."""
    return lambda params: jax.tree.map(
        lambda is_named: "freeze" if is_named else "train", mask_only(name)(params)
    )
