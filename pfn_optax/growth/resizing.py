"""Changes of several groups at once, on every tree that lies like the parameters."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding

from pfn_optax.growth.changes import NEW, PARAMETERS, Change, Kind, on_stretch
from pfn_optax.paths import Path, named_leaves
from pfn_optax.units import Group, UnitSpec, resized

# How parameters and batch statistics may stand in the tree that a spec was made for: side by side
# in one, as a pair, as the variables of Linen.
_PREFIXES = (((), ()), (("0",), ("1",)), (("params",), ("batch_stats",)))


class Places(NamedTuple):
    """Where the parameters and the batch statistics stand in the tree of the spec."""

    params: Path
    batch_stats: Path


def places_of(spec: UnitSpec, params: Any, batch_stats: Any) -> Places:
    """Finds how the tree that a spec was made for is put together.

    Args:
        spec: the groups.
        params: the parameters.
        batch_stats: the batch statistics, or None.

    Returns:
        What stands before the paths of both.

    Raises:
        ValueError: if a leaf is missing or has another shape.
    """
    used = {member.path for group in spec.groups for member in group.members}
    wanted = {path: shape for path, shape in spec.leaves if path in used}
    for first, second in _PREFIXES:
        shapes = {
            (*prefix, *path): tuple(np.shape(leaf))
            for prefix, tree in ((first, params), (second, batch_stats))
            for path, leaf in named_leaves(tree)
        }
        if all(shapes.get(path) == shape for path, shape in wanted.items()):
            return Places(first, second)
    if batch_stats is not None and any(path[:1] == ("params",) for path in wanted):
        spec.require_leaves({"params": params, "batch_stats": batch_stats})
    spec.require_leaves(params if batch_stats is None else (params, batch_stats))
    raise ValueError("the parameters are not those that the spec was made for.")


class Step(NamedTuple):
    """A change of one group, as it is when its turn comes."""

    group: Group
    change: Change


@dataclass(frozen=True)
class Resizing:
    """Changes of groups, one after the other.

    Attributes:
        steps: the changes.
        spec: the groups afterwards.
        places: where parameters and batch statistics stand in the tree of the spec.
        fresh: what stands where the marks say so, by path; None for the entries of donors.
    """

    steps: tuple[Step, ...]
    spec: UnitSpec
    places: Places
    fresh: Mapping[Path, np.ndarray | None]

    @classmethod
    def of(cls, spec: UnitSpec, changes: Mapping[str, Change], places: Places) -> "Resizing":
        """Puts the changes of several groups of one spec together."""
        steps = []
        for name, change in changes.items():
            steps.append(Step(spec.group(name), change))
            spec = resized(spec, {name: change.new_size})
        return cls(tuple(steps), spec, places, {})

    def concerns(self, path: Path) -> bool:
        """Whether a leaf changes."""
        return any(member.path == path for step in self.steps for member in step.group.members)

    def leaf(self, path: Path, leaf: np.ndarray, kind: Kind, num_own: int = 0) -> np.ndarray:
        """Changes a leaf.

        Args:
            path: its path in the tree of the spec.
            leaf: what lies like it.
            kind: what it is made of.
            num_own: number of axes of its own, which come first.

        Returns:
            The leaf of the new size.
        """
        values = leaf
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            values = leaf.astype(np.float64)
        values = self._mapped(path, values, num_own, functools.partial(_of_kind, kind))
        if kind.of != "gradients" and path in self.fresh:
            # Fresh weights are where they are in all copies, and have made no steps yet.
            fresh = self.fresh[path] if kind.of == "parameters" else np.zeros(())
            if fresh is not None:
                values = np.where(self.marks(path, leaf.shape[num_own:]) == NEW, fresh, values)
        return values.astype(leaf.dtype)

    def marks(self, path: Path, shape: tuple[int, ...]) -> np.ndarray:
        """Marks every entry of the changed leaf of this shape as old, new or zero."""
        return self._mapped(path, np.zeros(shape, np.int8), 0, _marks)

    def tree(self, tree: Any, prefix: Path, kind: Kind = PARAMETERS) -> Any:
        """Changes a tree like the parameters or the batch statistics."""
        leaves, treedef = jax.tree.flatten(tree)
        changed = [
            placed_like(self.leaf((*prefix, *path), host(leaf, path), kind), leaf, path)
            if self.concerns((*prefix, *path))
            else leaf
            for (path, _), leaf in zip(named_leaves(tree), leaves, strict=True)
        ]
        return treedef.unflatten(changed)

    def _mapped(
        self, path: Path, leaf: np.ndarray, num_own: int, change: Callable[..., Any]
    ) -> np.ndarray:
        for group, own in self.steps:
            members = [member for member in group.members if member.path == path]
            # From the end of an axis to its start, so that the places of the others stay.
            for member in sorted(members, key=lambda member: -member.start):
                apply = functools.partial(change, own, bool(member.is_read))
                shifted = member._replace(axis=member.axis + num_own)
                leaf = on_stretch(leaf, shifted, group.size, apply)
        return leaf


def host(leaf: Any, path: Path) -> np.ndarray:
    """A leaf as a NumPy array.

    Args:
        leaf: the leaf.
        path: its path, for the error.

    Returns:
        The array.

    Raises:
        ValueError: if it is traced.
    """
    if isinstance(leaf, Tracer):
        raise ValueError(
            f"{'/'.join(path) or 'params'} is traced: a change of sizes is made on the host, "
            "outside of jax.jit."
        )
    return np.asarray(leaf)


def placed_like(value: np.ndarray, leaf: Any, path: Path) -> Any:
    """Puts an array where another one is.

    Args:
        value: the array.
        leaf: the other one, of any size.
        path: its path, for the error.

    Returns:
        A NumPy array for one, else an array of JAX with the same sharding.

    Raises:
        ValueError: if the sharding does not fit the new size.
    """
    if not isinstance(leaf, jax.Array):
        return value
    sharding = leaf.sharding
    if len(sharding.device_set) == 1 and not getattr(leaf, "committed", True):
        return jnp.asarray(value)
    if isinstance(sharding, NamedSharding):
        for axis, names in enumerate(sharding.spec):
            names = names if isinstance(names, tuple) else (names,) if names else ()
            parts = int(np.prod([sharding.mesh.shape[name] for name in names]))
            if value.shape[axis] % parts:
                size = value.shape[axis]
                raise ValueError(
                    f"axis {axis} of {'/'.join(path) or 'params'} would have {size} entries, which "
                    f"the {parts} devices along mesh axis {', '.join(map(str, names))} cannot "
                    f"share evenly: choose a number of units that makes it a multiple of {parts}, "
                    "or replicate this leaf before."
                )
    return jax.device_put(value, sharding)


def _of_kind(kind: Kind, change: Change, is_read: bool, rows: np.ndarray) -> np.ndarray:
    if kind.of == "gradients":
        return change.gradients(rows, is_read, kind)
    return change.parameters(rows, is_read)


def _marks(change: Change, is_read: bool, rows: np.ndarray) -> np.ndarray:
    return change.marks(rows, is_read)
