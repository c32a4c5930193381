"""Second moments that are kept as a row and a column, as `optax.scale_by_factored_rms` does."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pfn_optax.growth.changes import Kind
from pfn_optax.growth.labels import StateLeaf
from pfn_optax.growth.resizing import Resizing
from pfn_optax.paths import Path

SQUARES = Kind("gradients", 2.0, is_odd=False)
_FIELDS = ("v_row", "v_col", "v")


class Factors(NamedTuple):
    """Row, column and whole; the ones not in use have one entry."""

    row: np.ndarray
    column: np.ndarray
    whole: np.ndarray


def factors_of(leaves: Sequence[StateLeaf]) -> dict[int, dict[str, int]]:
    """Which leaves belong to the factors of one moment.

    Args:
        leaves: all leaves of the state.

    Returns:
        For the number of each such leaf the numbers of its row, column and whole by field.
    """
    found: dict[tuple, dict[str, int]] = {}
    for number, leaf in enumerate(leaves):
        if leaf.path is not None and leaf.field in _FIELDS:
            own = "/".join((leaf.field, *leaf.path))
            before = re.sub(f"{re.escape(own)}$", "", leaf.name)
            found.setdefault((before, leaf.path), {})[leaf.field] = number
    return {
        number: numbers
        for numbers in found.values()
        if len(numbers) == len(_FIELDS)
        for number in numbers.values()
    }


def resized_factors(
    old: Factors, shape: tuple[int, ...], resizing: Resizing, path: Path, is_factored: bool
) -> Factors:
    """Changes the moment that the factors stand for, and factors it again.

    Args:
        old: the factors.
        shape: of the parameter.
        resizing: the change.
        path: of the parameter, in the tree of the spec.
        is_factored: whether it is kept as factors afterwards: it depends on the sizes.

    Returns:
        The new factors.
    """
    whole = old.whole
    if whole.shape != shape or old.row.size > 1:
        shorter, longer = _two_longest(shape)
        row, column = np.expand_dims(old.row, longer), np.expand_dims(old.column, shorter)
        mean = row.mean(shorter, keepdims=True)
        whole = np.divide(row * column, mean, out=np.zeros(shape, old.row.dtype), where=mean > 0)
    whole = resizing.leaf(path, whole, SQUARES)
    nothing = np.zeros(1, whole.dtype)
    if not is_factored:
        return Factors(nothing, nothing, whole)
    shorter, longer = _two_longest(whole.shape)
    return Factors(whole.mean(longer), whole.mean(shorter), nothing)


def _two_longest(shape: tuple[int, ...]) -> tuple[int, int]:
    """Its two longest axes, in the order in which optax takes those of the same length."""
    order = np.argsort(shape)
    return int(order[-2]), int(order[-1])
