"""What becomes of the entries of a group's units when their number changes.

A change is a map of the parameters, and the gradients go along with its dual. Where a unit is split
into copies with shares that sum to 1, the weights that read it are multiplied by the shares and all
others are copied; so the gradient of a copied weight is its share of the old one, and that of each
shared weight the whole old one.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from pfn_optax.units import Member


@dataclass(frozen=True)
class Kind:
    """How a leaf of an optimizer's state depends on what it was made of.

    Attributes:
        of: `"parameters"` for their copies and averages; `"differences"` for those of parameters,
            such as past steps; `"gradients"` for sums and averages of a power of the gradients,
            entry by entry.
        degree: that power: 1 for momentum, 2 for Adam's second moment, 0 for averages of updates
            that Adam has normalised.
        is_odd: whether it changes its sign with the gradients.
    """

    of: Literal["parameters", "differences", "gradients"]
    degree: float = 1.0
    is_odd: bool = True


PARAMETERS = Kind("parameters")

# What a mark of an entry says: where fresh units stand, of which the weights are drawn.
OLD, NEW, ZERO = 0, 1, 2


class Change(Protocol):
    """Of the rows, one for each unit, of one stretch of an axis."""

    @property
    def new_size(self) -> int:
        """Number of units afterwards."""
        ...

    def parameters(self, rows: np.ndarray, is_read: bool) -> np.ndarray:
        """The rows of parameters; `is_read` where the units are read."""
        ...

    def gradients(self, rows: np.ndarray, is_read: bool, kind: Kind) -> np.ndarray:
        """The rows of what is made of gradients."""
        ...

    def marks(self, rows: np.ndarray, is_read: bool) -> np.ndarray:
        """The rows of marks."""
        ...


@dataclass(frozen=True)
class Split:
    """The new unit `i` is the old unit `units[i]`, and has this share of what it gives."""

    units: np.ndarray
    shares: np.ndarray

    @property
    def new_size(self) -> int:
        """Number of units afterwards."""
        return len(self.units)

    def parameters(self, rows: np.ndarray, is_read: bool) -> np.ndarray:
        """Copies, shared where they are read."""
        return _scaled(rows[self.units], self.shares) if is_read else rows[self.units]

    def gradients(self, rows: np.ndarray, is_read: bool, kind: Kind) -> np.ndarray:
        """Copies where they are read, shared elsewhere: the dual."""
        if is_read:
            return rows[self.units]
        factors = np.abs(self.shares) ** kind.degree
        return _scaled(rows[self.units], factors * np.sign(self.shares) if kind.is_odd else factors)

    def marks(self, rows: np.ndarray, is_read: bool) -> np.ndarray:
        """Copies."""
        return rows[self.units]


@dataclass(frozen=True)
class Fresh:
    """New units after the old ones, which nothing reads yet.

    The donors are old units, whose biases and batch statistics the new ones start with.
    """

    donors: np.ndarray
    size: int

    @property
    def new_size(self) -> int:
        """Number of units afterwards."""
        return self.size + len(self.donors)

    def parameters(self, rows: np.ndarray, is_read: bool) -> np.ndarray:
        """Zero where the new units are read, those of the donors elsewhere."""
        new = rows[self.donors]
        return np.concatenate([rows, np.zeros_like(new) if is_read else new])

    def gradients(self, rows: np.ndarray, is_read: bool, kind: Kind) -> np.ndarray:
        """Zero for what has a sign, and the mean of the old units for what measures a size."""
        new = np.zeros_like(rows[self.donors])
        if not kind.is_odd:
            new = new + rows.mean(0)
        return np.concatenate([rows, new])

    def marks(self, rows: np.ndarray, is_read: bool) -> np.ndarray:
        """Where the new units are; what reads fresh units stays zero also where it is fresh."""
        donors = rows[self.donors]
        new = np.where(is_read | (donors == ZERO), ZERO, NEW).astype(rows.dtype)
        return np.concatenate([rows, new])


@dataclass(frozen=True)
class Merge:
    """The old unit `k` is computed by the sum over i of `mixing[i, k]` times the unit `kept[i]`.

    The signs say which old units add to the gradient of what they are merged into, and which
    take away from it, because they are read with opposite signs.
    """

    kept: np.ndarray
    mixing: np.ndarray
    signs: np.ndarray

    @property
    def new_size(self) -> int:
        """Number of units afterwards."""
        return len(self.kept)

    def parameters(self, rows: np.ndarray, is_read: bool) -> np.ndarray:
        """Those that stay; where they are read, mixed."""
        return np.tensordot(self.mixing, rows, 1) if is_read else rows[self.kept]

    def gradients(self, rows: np.ndarray, is_read: bool, kind: Kind) -> np.ndarray:
        """Those that stay where they are read, mixed elsewhere: the dual."""
        if is_read:
            return rows[self.kept]
        if kind.degree == 0:
            signs = self.signs[self.kept] if kind.is_odd else np.ones(len(self.kept))
            return _scaled(rows[self.kept], signs)
        if kind.is_odd and kind.degree == 1:
            return np.tensordot(self.mixing, rows, 1)
        # Sizes of gradients that point the same way, or opposite ways: so are those of copies.
        sizes = np.sign(rows) * np.abs(rows) ** (1 / kind.degree)
        signs = 1 if kind.is_odd else self.signs
        mixed = np.tensordot(self.mixing * signs, sizes, 1)
        powers = np.abs(mixed) ** kind.degree
        return np.sign(mixed) * powers if kind.is_odd else powers

    def marks(self, rows: np.ndarray, is_read: bool) -> np.ndarray:
        """Those that stay."""
        return rows[self.kept]


def on_stretch(leaf: np.ndarray, member: Member, size: int, change: Any) -> np.ndarray:
    """Changes one stretch of an axis.

    Args:
        leaf: an array.
        member: the stretch.
        size: the number of units on it.
        change: from its rows, one for each unit, to the new ones.

    Returns:
        The array of the new size, of the same dtype.
    """
    axis = member.axis
    stop = member.start + member.before * size * member.after
    before, stretch, after = np.split(leaf, [member.start, stop], axis)
    split = stretch.reshape(
        *leaf.shape[:axis], member.before, size, member.after, *leaf.shape[axis + 1 :]
    )
    rows = np.moveaxis(change(np.moveaxis(split, axis + 1, 0)), 0, axis + 1)
    stretch = rows.reshape(*leaf.shape[:axis], -1, *leaf.shape[axis + 1 :]).astype(leaf.dtype)
    return np.concatenate([before, stretch, after], axis)


def _scaled(rows: np.ndarray, factors: np.ndarray) -> np.ndarray:
    # In float64, so that only the result is rounded.
    return rows * factors.reshape(-1, *[1] * (rows.ndim - 1))
