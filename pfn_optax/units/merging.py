"""Fewer units in the place of many: each new unit is read as a mixture of old ones."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from pfn_optax.units.copying import on_members, require_units, resized
from pfn_optax.units.spec import Group, Member, UnitSpec, host, namespace


def merge_units(
    spec: UnitSpec, params: Any, kept: Mapping[str, Any], mixings: Mapping[str, Any]
) -> tuple[Any, UnitSpec]:
    """Keeps some units, and lets what read the others read these instead.

    The new unit `i` is the old unit `kept[i]`, and the weights that read it are
    `sum_k mixing[i, k] * (those that read the old unit k)`. What reads units is linear, so the
    function stays as it is where every old unit is computed by `sum_i mixing[i, k] * (the old unit
    kept[i])`.

    Args:
        spec: the groups.
        params: the parameters.
        kept: for each group to be changed which of its units stay, i32[new_size].
        mixings: for each of them f[new_size, size].

    Returns:
        The parameters of the new sizes, with the same structure and dtypes, and their spec.

    Raises:
        ValueError: if a group is not known or cannot be split, an array does not fit it, or the
            tree is not one of the same model.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.units import merge_units, unit_spec
        >>> params = {"in": jnp.asarray([[1.0, 2.0]]), "out": jnp.asarray([[3.0], [4.0]])}
        >>> def predict(params, x):
        ...     return jnp.maximum(x @ params["in"], 0) @ params["out"]
        >>> spec = unit_spec(predict, params, jnp.ones((1, 1)))
        >>> small, _ = merge_units(spec, params, {"in": [0]}, {"in": [[1.0, 2.0]]})
        >>> small["in"].tolist(), small["out"].tolist()
        ([[1.0]], [[11.0]])
    """
    spec.require_leaves(params)
    for name, units in kept.items():
        group, units, mixing = spec.group(name), host(units), host(mixings[name])
        smaller = resized(spec, {name: len(units)})
        _require_mixing(group, units, mixing)
        merged = functools.partial(_merged_at, group.size, units, mixing)
        params = on_members(params, group, merged)
        spec = smaller
    return params, spec


def _merged_at(size: int, units: Any, mixing: Any, leaf: Any, member: Member) -> Any:
    """One stretch of an axis with fewer units on it."""
    axis, numbers = member.axis, namespace(leaf, mixing)
    leaf = numbers.asarray(leaf)
    stop = member.start + member.before * size * member.after
    before, stretch, after = numbers.split(leaf, [member.start, stop], axis)
    split = stretch.reshape(
        *leaf.shape[:axis], member.before, size, member.after, *leaf.shape[axis + 1 :]
    )
    if member.is_read:
        split = numbers.moveaxis(numbers.tensordot(mixing, split, (1, axis + 1)), 0, axis + 1)
    else:
        split = numbers.take(split, units, axis + 1)
    stretch = split.reshape(*leaf.shape[:axis], -1, *leaf.shape[axis + 1 :])
    return numbers.concatenate([before, stretch.astype(leaf.dtype), after], axis)


def _require_mixing(group: Group, units: Any, mixing: Any) -> None:
    require_units(group, units)
    if np.shape(mixing) != (*np.shape(units), group.size):
        raise ValueError(
            f"group {group.name!r} needs a mixing of shape {(*np.shape(units), group.size)}, one "
            f"row for each unit that stays, got an array of shape {np.shape(mixing)}."
        )
