"""Copies of units, as many as one likes: a wider or narrower layer with the same function."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from pfn_optax.paths import named_leaves
from pfn_optax.units.spec import Group, Member, UnitSpec, host, namespace


def copy_units(
    spec: UnitSpec,
    params: Any,
    copies: Mapping[str, Any],
    shares: Mapping[str, Any] | None = None,
) -> tuple[Any, UnitSpec]:
    """Makes layers of copies of units: the new unit `i` is the old unit `copies[i]`.

    The weights that read a copy are multiplied by its share, all others are copied. The function
    stays as it is where the shares of the copies of each old unit sum to 1.

    Args:
        spec: the groups.
        params: the parameters.
        copies: for each group to be changed which old unit each new one is, i32[new_size].
        shares: for each of them the shares, f[new_size]; by default all are 1.

    Returns:
        The parameters of the new sizes, with the same structure and dtypes, and their spec.

    Raises:
        ValueError: if a group is not known or cannot be split, an array does not fit it, or the
            tree is not one of the same model.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.units import copy_units, unit_spec
        >>> params = {"in": jnp.asarray([[1.0, 2.0]]), "out": jnp.asarray([[3.0], [4.0]])}
        >>> spec = unit_spec(
        ...     lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"], params, jnp.ones((1, 1))
        ... )
        >>> wide, _ = copy_units(spec, params, {"in": [0, 1, 1]}, {"in": [1, 0.25, 0.75]})
        >>> wide["in"].ravel(), wide["out"].ravel()
        (Array([1., 2., 2.], dtype=float32), Array([3., 1., 3.], dtype=float32))
    """
    spec.require_leaves(params)
    for name, units in copies.items():
        share = np.ones(np.shape(units)) if shares is None else shares[name]
        group = spec.group(name)
        _require_copies(group, units, share)
        copied = functools.partial(_copied_at, group.size, host(units), host(share))
        params = on_members(params, group, copied)
        spec = resized(spec, {name: np.shape(units)[0]})
    return params, spec


def resized(spec: UnitSpec, sizes: Mapping[str, int]) -> UnitSpec:
    """Returns the spec of the same model with other numbers of units.

    Args:
        spec: the groups.
        sizes: the new size of each group that changes.

    Returns:
        The spec, not checked.

    Raises:
        ValueError: if a group is not known, cannot be split, or a size is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.units import resized, unit_spec
        >>> params = {"in": jnp.ones((1, 2)), "out": jnp.ones((2, 1))}
        >>> spec = unit_spec(
        ...     lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"], params, jnp.ones((1, 1))
        ... )
        >>> resized(spec, {"in": 5}).leaves
        ((('in',), (1, 5)), (('out',), (5, 1)))
    """
    for name, size in sizes.items():
        _require_splittable(spec.group(name))
        if size < 1:
            raise ValueError(f"group {name!r} needs at least one unit, got {size}.")
        spec = _resized(spec, spec.group(name), size)
    return spec


def on_members(params: Any, group: Group, change: Callable[[Any, Member], Any]) -> Any:
    """Applies `change(leaf, member)` wherever a group stands.

    From the end of an axis to its start, so that the places of the others stay.
    """
    leaves, treedef = jax.tree.flatten(params)
    numbers = {path: number for number, (path, _) in enumerate(named_leaves(params))}
    for member in sorted(group.members, key=lambda member: -member.start):
        leaves[numbers[member.path]] = change(leaves[numbers[member.path]], member)
    return treedef.unflatten(leaves)


def require_units(group: Group, units: Any) -> None:
    """Refuses what is no list of units of a group."""
    is_valid = np.ndim(units) == 1 and np.size(units) > 0
    if is_valid and not isinstance(units, Tracer):
        units = np.asarray(units)
        is_valid = np.issubdtype(units.dtype, np.integer)
        is_valid = is_valid and units.min() >= 0 and units.max() < group.size
    if not is_valid:
        raise ValueError(
            f"group {group.name!r} needs a list of its units 0, ..., {group.size - 1}, got {units}."
        )


def _copied_at(size: int, units: Any, share: Any, leaf: Any, member: Member) -> Any:
    """One stretch of an axis with other units on it."""
    axis, start = member.axis, member.start
    places = np.arange(start, start + member.before * size * member.after)
    stretch = namespace(units).take(places.reshape(member.before, size, member.after), units, 1)
    index = namespace(units).concatenate(
        [np.arange(start), stretch.ravel(), np.arange(places[-1] + 1, leaf.shape[axis])]
    )
    leaf = namespace(leaf, index).take(leaf, index, axis)
    if not member.is_read:
        return leaf
    factors = namespace(share).broadcast_to(share[:, None], stretch.shape).ravel()
    around = [np.ones(start), np.ones(leaf.shape[axis] - start - stretch.size)]
    factors = namespace(share).concatenate([around[0], factors, around[1]])
    shape = [1] * leaf.ndim
    shape[axis] = -1
    return leaf * factors.astype(leaf.dtype).reshape(shape)


def _resized(spec: UnitSpec, group: Group, size: int) -> UnitSpec:
    own = group.members

    def moved(member: Member) -> Member:
        """A member of any group, after the stretches before it and around it have changed."""
        start, before, after = member.start, member.before, member.after
        for other in own:
            if (other.path, other.axis) != (member.path, member.axis):
                continue
            if other.start < member.start:
                start += (size - group.size) * other.before * other.after
            elif other.start == member.start and other.before < member.before:
                before = before // group.size * size
            elif other.start == member.start and other.before > member.before:
                after = after // group.size * size
        return member._replace(start=start, before=before, after=after)

    lengths: dict[tuple[Any, ...], int] = {}
    for member in own:
        place = member.path, member.axis
        growth = (size - group.size) * member.before * member.after
        lengths[place] = lengths.get(place, 0) + growth
    groups = tuple(
        Group(each.name, size if each is group else each.size, tuple(map(moved, each.members)))
        for each in spec.groups
    )
    leaves = tuple(
        (path, tuple(n + lengths.get((path, axis), 0) for axis, n in enumerate(shape)))
        for path, shape in spec.leaves
    )
    return replace(spec, groups=groups, leaves=leaves)


def _require_splittable(group: Group) -> None:
    if not group.is_splittable:
        raise ValueError(
            f"the units of group {group.name!r} cannot be split: they are summed without weights "
            "(a norm or a softmax over them, a mean), or multiplied with each other (queries and "
            "keys, a flattened outer product), or a spec written by hand does not say where they "
            "are read (Member.is_read)."
        )


def _require_copies(group: Group, units: Any, share: Any) -> None:
    _require_splittable(group)
    require_units(group, units)
    if np.shape(share) != np.shape(units):
        raise ValueError(
            f"group {group.name!r} needs a share for each of {np.size(units)} units, got an array "
            f"of shape {np.shape(share)}."
        )
