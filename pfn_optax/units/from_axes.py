"""A spec that is written by hand: which axes of which leaves belong to which group."""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from pfn_optax.paths import Path, named_leaves, natural_key
from pfn_optax.units.spec import Group, Member, Shape, UnitSpec, by_path


def spec_from_axes(params: Any, axes: Mapping[str, Sequence[str | Member]]) -> UnitSpec:
    """Makes a spec from the axes of each group; `check_spec` proves it on the function.

    Args:
        params: the parameters: any pytree of arrays or `jax.ShapeDtypeStruct`.
        axes: for each group what it indexes: a leaf and an axis that is all its own, such as
            `"Dense_0/kernel:1"`, or a `Member` where the units share the axis with something else
            (flattened pixels, heads) or can be rescaled, flipped or split. An axis of its own says
            how many units there are.

    Returns:
        The spec, not yet checked.

    Raises:
        ValueError: if a leaf or an axis does not exist, the sizes of a group disagree, a place is
            given twice, or a group has no axes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pfn_optax.units import check_spec, spec_from_axes
        >>> params = {"in": jnp.ones((3, 4)), "bias": jnp.ones(4), "out": jnp.ones((4, 2))}
        >>> spec = spec_from_axes(params, {"hidden": ["in:1", "bias:0", "out:0"]})
        >>> spec.group("hidden").size
        4
        >>> def predict(params, x):
        ...     return jax.nn.relu(x @ params["in"] + params["bias"]) @ params["out"]
        >>> check_spec(spec, predict, params, jnp.ones((1, 3)))
    """
    shapes = {path: tuple(jnp.shape(leaf)) for path, leaf in named_leaves(params)}
    groups = [_group(name, places, shapes) for name, places in axes.items()]
    uses = Counter((group.size, member.place) for group in groups for member in group.members)
    for (_, place), number in uses.items():
        if number > 1:
            raise ValueError(f"{place} is given {number} times: units can be moved only once.")
    return UnitSpec(
        tuple(sorted(groups, key=lambda group: natural_key((group.name,)))),
        tuple(sorted(shapes.items(), key=lambda leaf: natural_key(leaf[0]))),
    )


def _group(name: str, places: Sequence[str | Member], shapes: dict[Path, Shape]) -> Group:
    if isinstance(places, str) or not places:
        raise ValueError(f'group {name!r} needs a list of axes, as ["Dense_0/kernel:1"].')
    members = [_member(name, place, shapes) for place in places]
    own = [member for member, place in zip(members, places, strict=True) if isinstance(place, str)]
    first = own[0] if own else min(members, key=lambda member: _room(member, shapes))
    size = _room(first, shapes)
    for member in members:
        room = _room(member, shapes)
        if room < max(size, 1) or (member in own and room != size):
            raise ValueError(
                f"group {name!r}: {member} has room for {room} units, {first} for {size}."
                + _flattened(member, room, size)
            )
    return Group(name, size, tuple(sorted(members, key=by_path)))


def _room(member: Member, shapes: dict[Path, Shape]) -> int:
    """How many units fit on the axis."""
    return (shapes[member.path][member.axis] - member.start) // (member.before * member.after)


def _flattened(member: Member, room: int, size: int) -> str:
    if room <= size or room % size:
        return ""
    return (
        f" Where they are flattened together with {room // size} pixels, pass "
        f"Member({member.path}, {member.axis}, before={room // size}), or after= if the pixels "
        "come last."
    )


def _member(name: str, place: str | Member, shapes: dict[Path, Shape]) -> Member:
    if isinstance(place, str):
        leaf, colon, axis = place.rpartition(":")
        if not colon or not axis.isdigit():
            raise ValueError(
                f"group {name!r}: {place!r} names no axis; write the leaf, a colon and the number "
                'of the axis, as "Dense_0/kernel:1".'
            )
        member = Member(tuple(leaf.split("/")) if leaf else (), int(axis))
    else:
        member = place
    if member.path not in shapes:
        known = {"/".join(path): path for path in shapes}
        wanted = "/".join(member.path)
        near = difflib.get_close_matches(wanted, known, n=3) or [*known][:5]
        raise ValueError(
            f"group {name!r}: there is no leaf {wanted!r}; the nearest are {', '.join(near)}."
        )
    shape = shapes[member.path]
    if not 0 <= member.axis < len(shape):
        raise ValueError(
            f"group {name!r}: {'/'.join(member.path) or 'params'} has shape {shape} and no axis "
            f"{member.axis}; count from 0 to {len(shape) - 1}."
        )
    return member
