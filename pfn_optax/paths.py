"""Names for the leaves of a parameter tree: key paths as strings, in the order people count.

A leaf is known by its path and never by its position, because trees of the same parameters differ:
`flax.nnx.Optimizer`, for one, calls `init` with variables and `update` with bare arrays.
"""

import re
from typing import Any

import jax
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

Path = tuple[str, ...]

_NUMBER = re.compile(r"(\d+)")


def names_of(key_path: tuple[Any, ...]) -> Path:
    """Returns the key path as strings, without the trailing `.value` of a Flax variable."""
    if key_path and key_path[-1] == GetAttrKey("value"):
        key_path = key_path[:-1]
    return tuple(_name(key) for key in key_path)


def _name(key: Any) -> str:
    if isinstance(key, (DictKey, FlattenedIndexKey)):
        return str(key.key)
    if isinstance(key, SequenceKey):
        return str(key.idx)
    if isinstance(key, GetAttrKey):
        return key.name
    return str(key)


def natural_key(names: Path) -> tuple[Any, ...]:
    """Sorts `Conv_2` before `Conv_10`, and numbers before words."""
    return tuple(
        tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in split if part)
        for split in map(_NUMBER.split, names)
    )


def named_leaves(tree: Any) -> list[tuple[Path, Any]]:
    """Returns the (names, leaf) pairs of a tree, in the tree's own order."""
    return [(names_of(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
