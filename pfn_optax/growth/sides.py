"""The sides of a layer, what it produces and what it reads: the narrower one bounds its rank."""

import math
from typing import NamedTuple

from pfn_optax.grid import GridLayer
from pfn_optax.partition import Layer
from pfn_optax.paths import Path
from pfn_optax.units import Group, Member, UnitSpec

# Where the parameters may stand in the tree that the spec was made for.
_PREFIXES: tuple[Path, ...] = ((), ("0",), ("params",))


class Side(NamedTuple):
    """One side of a layer.

    Attributes:
        width: how many directions it has.
        is_read: whether it is what the layer reads.
        members: the groups on it; none where it is given by the data.
    """

    width: float
    is_read: bool
    members: list[tuple[Group, Member]]


def narrowest(spec: UnitSpec, layer: Layer | GridLayer) -> list[tuple[Side, Group, Member]]:
    """Returns the groups that can grow on the sides that bound the rank of a layer.

    Args:
        spec: the groups; sizes are read from it.
        layer: a layer of its parameters.

    Returns:
        The groups of the narrower side; of both, where they are as wide.
    """
    least = min(side.width for side in _sides(spec, layer))
    return [found for found in splittable(spec, layer) if found[0].width == least]


def splittable(spec: UnitSpec, layer: Layer | GridLayer) -> list[tuple[Side, Group, Member]]:
    """Returns the groups that can grow on either side of a layer.

    Args:
        spec: the groups; sizes are read from it.
        layer: a layer of its parameters.

    Returns:
        The groups.
    """
    return [
        (side, group, member)
        for side in _sides(spec, layer)
        for group, member in side.members
        if group.is_splittable
    ]


def _sides(spec: UnitSpec, layer: Layer | GridLayer) -> tuple[Side, Side]:
    """What a layer produces, and what it reads."""
    shapes = dict(spec.leaves)
    path = next((path for p in _PREFIXES if (path := (*p, *layer.path)) in shapes), None)
    shape = shapes.get(path or (), ())
    produced, read = [], []
    for group in spec.groups:
        for member in group.members:
            if member.path == path:
                at_end = member.axis == layer.unit_axis % len(shape)
                is_read = not at_end if member.is_read is None else member.is_read
                (read if is_read else produced).append((group, member))
    produced_axes = {member.axis for _, member in produced}
    if not produced_axes and shape:
        produced_axes = {layer.unit_axis % len(shape)}
    # Of a kernel that slides over units the channels count, of one over data the whole patch.
    read_axes = {member.axis for _, member in read} or set(range(len(shape))) - produced_axes

    def width(axes: set[int]) -> float:
        return math.prod(shape[axis] for axis in axes) if axes else math.inf

    return Side(width(produced_axes), False, produced), Side(width(read_axes), True, read)
