"""Leaves cut into dense blocks, each of whose axes is the units of one group.

A leaf can have several groups end to end on one axis (concatenated features) or interleaved
(flattened pixels, heads and their entries). Cut and reshaped, what is left is a list of arrays
`[rest, group, group, ...]`, and everything that the search needs is a matrix product of two of
them.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from pfn_optax.paths import Path, named_leaves
from pfn_optax.units import Group, Member, UnitSpec

Permutations = dict[str, np.ndarray]
"""i32[size] by group: the new unit `i` is the old unit `permutation[i]`."""


class Dim(NamedTuple):
    """One index of a piece.

    Attributes:
        size: its size.
        group: the group whose units it runs over; None for any other.
        exponent: of the group where it occurs.
    """

    size: int
    group: str | None = None
    exponent: Fraction | None = None


class Piece(NamedTuple):
    """A stretch of each axis of a leaf.

    Attributes:
        path: the leaf.
        slices: the stretches.
        dims: their indices, those of the first axis first.
    """

    path: Path
    slices: tuple[slice, ...]
    dims: tuple[Dim, ...]

    @property
    def grouped(self) -> tuple[Dim, ...]:
        """The indices that run over units, in the order of a block's axes."""
        return tuple(self.dims[k] for k in self._order())

    def cut(self, leaf: np.ndarray) -> np.ndarray:
        """The piece of a leaf, `f[rest, *sizes of the grouped indices]`."""
        array = leaf[self.slices].reshape([dim.size for dim in self.dims])
        order = self._order()
        rest = [k for k in range(array.ndim) if k not in order]
        return array.transpose(rest + order).reshape(-1, *(array.shape[k] for k in order))

    def _order(self) -> list[int]:
        # By name, so that a matrix and one that leads back lie alike and can be joined.
        grouped = [k for k, dim in enumerate(self.dims) if dim.group is not None]
        return sorted(grouped, key=lambda k: str(self.dims[k].group))


def pieces_of(spec: UnitSpec) -> tuple[Piece, ...]:
    """Cuts all leaves of a spec.

    Raises:
        ValueError: if members overlap without one being nested in the other.
    """
    found: dict[tuple[Path, int], list[tuple[Group, Member]]] = {}
    for group in spec.groups:
        for member in group.members:
            found.setdefault((member.path, member.axis), []).append((group, member))
    pieces = []
    for path, shape in spec.leaves:
        axes = [_stretches(size, found.get((path, k), [])) for k, size in enumerate(shape)]
        for stretches in itertools.product(*axes):
            slices = tuple(slice(start, stop) for start, stop, _ in stretches)
            dims = tuple(dim for *_, own in stretches for dim in own)
            pieces.append(Piece(path, slices, dims))
    return tuple(pieces)


def _stretches(
    length: int, members: list[tuple[Group, Member]]
) -> Iterator[tuple[int, int, tuple[Dim, ...]]]:
    """The stretches of an axis end to end: start, stop and indices."""
    position = 0
    members = sorted(members, key=lambda pair: (pair[1].start, pair[1].after))
    for start, same in itertools.groupby(members, lambda pair: pair[1].start):
        nested = list(same)
        group, first = nested[0]
        stop = start + first.before * group.size * first.after
        if start > position:
            yield position, start, (Dim(start - position),)
        yield start, stop, _nested(stop - start, nested, is_apart=position <= start)
        position = stop
    if position < length:
        yield position, length, (Dim(length - position),)


def _nested(total: int, members: list[tuple[Group, Member]], *, is_apart: bool) -> tuple[Dim, ...]:
    """The indices of one stretch, from the outermost to the innermost."""
    dims, inner = [], 1
    for group, member in members:
        is_whole = member.before * group.size * member.after == total
        if not (is_apart and is_whole and member.after % inner == 0):
            raise ValueError(
                f"group {group.name!r}: {member} overlaps another member of the same axis; groups "
                "on one axis must lie end to end or one within the other."
            )
        if member.after > inner:
            dims.append(Dim(member.after // inner))
        dims.append(Dim(group.size, group.name, member.exponent))
        inner = member.after * group.size
    if total > inner:
        dims.append(Dim(total // inner))
    return tuple(reversed(dims))


@dataclass(eq=False, frozen=True)
class Block:
    """Entries of both networks that the same groups index.

    Attributes:
        groups: the group of each axis but the first.
        views: for each group's axis the entries of a and b, `f[rest, *other axes, size]`.
    """

    groups: tuple[str, ...]
    views: tuple[tuple[np.ndarray, np.ndarray], ...]

    @staticmethod
    def of(groups: tuple[str, ...], a: np.ndarray, b: np.ndarray) -> "Block":
        """A block from `f[rest, *sizes]` of both."""
        views = tuple(
            (
                np.ascontiguousarray(np.moveaxis(a, axis + 1, -1)),
                np.ascontiguousarray(np.moveaxis(b, axis + 1, -1)),
            )
            for axis in range(len(groups))
        )
        return Block(groups, views)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the groups."""
        return tuple(a.shape[-1] for a, _ in self.views)

    def others(self, axis: int) -> tuple[str, ...]:
        """The groups of the other axes."""
        return self.groups[:axis] + self.groups[axis + 1 :]

    def product(self, axis: int, permutations: Permutations) -> np.ndarray:
        """Inner products of the units of a and b, the other axes of b permuted: f64[size, size]."""
        a, b = self.views[axis]
        for k, group in enumerate(self.others(axis)):
            b = b.take(permutations[group], k + 1)
        return _gram(a, b)

    def change(self, axis: int, before: Permutations, after: Permutations) -> np.ndarray:
        """How the product of a block of two groups changes with the permutation of the other."""
        [other] = self.others(axis)
        moved = np.flatnonzero(before[other] != after[other])
        a, b = self.views[axis]
        return _gram(a[:, moved], b[:, after[other][moved]] - b[:, before[other][moved]])

    def inner(self, permutations: Permutations) -> float:
        """The inner product of a and the permuted b."""
        a, b = self.views[0]
        for k, group in enumerate((*self.others(0), self.groups[0])):
            b = b.take(permutations[group], k + 1)
        return float(np.vdot(a.astype(np.float64), b.astype(np.float64)))


def _gram(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    size = a.shape[-1]
    return (a.reshape(-1, size).T @ b.reshape(-1, size)).astype(np.float64)


class Matching:
    """The objective as a function of the permutations.

    Permuting changes no norm, so of |a - b|² only the inner product depends on it, a sum over
    blocks; and with all groups but one fixed it is a sum over the entries of a matrix.
    """

    def __init__(self, spec: UnitSpec, a: Any, b: Any, dtype: Any):
        """Cuts prepared trees into blocks of a dtype."""
        left, right = dict(named_leaves(a)), dict(named_leaves(b))
        self.sizes: dict[str, int] = {group.name: group.size for group in spec.groups}
        # In float64, before the entries are rounded to the dtype.
        self.constant = sum(
            float(np.vdot(leaf, leaf)) for side in (left, right) for leaf in side.values()
        )
        used = {member.path for group in spec.groups for member in group.members}
        fixed = sum(float(np.vdot(x, right[path])) for path, x in left.items() if path not in used)
        one, other = ({path: side[path].astype(dtype) for path in used} for side in (left, right))
        parts: dict[tuple[str, ...], list[tuple[np.ndarray, np.ndarray]]] = {}
        for piece in pieces_of(spec):
            if piece.grouped:
                names = tuple(str(dim.group) for dim in piece.grouped)
                pair = piece.cut(one[piece.path]), piece.cut(other[piece.path])
                parts.setdefault(names, []).append(pair)
            elif piece.path in used:
                x, y = (piece.cut(side[piece.path]) for side in (left, right))
                fixed += float(np.vdot(x, y))
        self.constant -= 2 * fixed
        self.blocks: tuple[Block, ...] = tuple(
            Block.of(names, *(np.concatenate(side) for side in zip(*pairs, strict=True)))
            for names, pairs in parts.items()
        )
        self.places: dict[str, list[tuple[int, int]]] = {name: [] for name in self.sizes}
        for number, block in enumerate(self.blocks):
            for axis, name in enumerate(block.groups):
                self.places[name].append((number, axis))
        # Gains below this may be rounding.
        scale = sum(float(np.vdot(side, side)) for block in self.blocks for side in block.views[0])
        self.tolerance: float = 4 * float(np.finfo(dtype).eps) * scale
        self._fixed: dict[str, np.ndarray] = {}

    @property
    def identity(self) -> Permutations:
        """The permutations that change nothing."""
        return {name: np.arange(size, dtype=np.int32) for name, size in self.sizes.items()}

    def value(self, permutations: Permutations) -> float:
        """The objective."""
        return self.constant - 2 * sum(block.inner(permutations) for block in self.blocks)

    def fixed_profit(self, name: str) -> np.ndarray:
        """What matching units of a group gains in blocks that no other group indexes."""
        if name not in self._fixed:
            profit = np.zeros((self.sizes[name],) * 2)
            for number, axis in self.places[name]:
                if len(self.blocks[number].groups) == 1:
                    profit += self.blocks[number].product(axis, {})
            self._fixed[name] = profit
        return self._fixed[name]

    def neighbours(self, name: str) -> set[str]:
        """Groups that share a block with a group; itself where it has two axes of one."""
        return {
            other
            for number, axis in self.places[name]
            for other in self.blocks[number].others(axis)
        }
