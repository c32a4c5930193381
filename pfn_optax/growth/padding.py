"""Widths that grow inside arrays of one size: nothing is compiled anew, and `jax.vmap` works.

The groups are padded to the largest size that they may reach, with units whose weights are all
zero: they add nothing to the function, and `only_active` keeps them at zero. Growing takes units
out of the padding. An ensemble whose members have different widths is then one array of networks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pfn_optax.growth.arguments import require_growable
from pfn_optax.growth.changes import Change, Kind
from pfn_optax.growth.grow import Grown, applied, grow
from pfn_optax.growth.resizing import Resizing, places_of
from pfn_optax.paths import Path, named_leaves
from pfn_optax.state import PFNState
from pfn_optax.units import Group, Member, UnitSpec


@dataclass(frozen=True)
class Sized:
    """The first units; behind them zeros."""

    new_size: int

    def parameters(self, rows: np.ndarray, is_read: bool) -> np.ndarray:
        """Cut off, or with zeros behind."""
        padding = np.zeros((max(self.new_size - len(rows), 0), *rows.shape[1:]), rows.dtype)
        return np.concatenate([rows[: self.new_size], padding])

    def gradients(self, rows: np.ndarray, is_read: bool, kind: Kind) -> np.ndarray:
        """The same."""
        return self.parameters(rows, is_read)

    def marks(self, rows: np.ndarray, is_read: bool) -> np.ndarray:
        """The same."""
        return self.parameters(rows, is_read)


def pad(
    params: Any,
    spec: UnitSpec,
    sizes: Mapping[str, int],
    *,
    optimizer: Any = None,
    optimizer_state: Any = None,
    kinds: Mapping[str, Kind] | None = None,
    batch_stats: Any = None,
) -> Grown:
    """Pads groups with units that are zero; the function stays.

    Args:
        params: the parameters.
        spec: their groups.
        sizes: the padded size of each group to be padded.
        optimizer: the optax optimizer, with `optimizer_state`.
        optimizer_state: its state.
        kinds: as for `grow`.
        batch_stats: batch statistics.

    Returns:
        The padded network and its padded spec. Train it with `only_active`.

    Raises:
        ValueError: as for `grow`; if a padded size is below the size of the group.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pfn_optax.growth import grow_padded, pad, widths
        >>> from pfn_optax.units import unit_spec
        >>> params = {"in": jnp.ones((1, 2)), "out": jnp.ones((2, 1))}
        >>> def predict(params, x):
        ...     return jnp.tanh(x @ params["in"]) @ params["out"]
        >>> spec = unit_spec(predict, params, jnp.ones((1, 1)))
        >>> padded = pad(params, spec, {"in": 8})
        >>> padded.params["in"].shape, predict(padded.params, jnp.ones(1))
        ((1, 8), Array([1.5231884], dtype=float32))
        >>> wide = grow_padded(padded.params, padded.spec, spec, "in", 3, key=jax.random.key(0))
        >>> widths(wide.spec), wide.params["in"].shape
        ({'in': 5}, (1, 8))
    """
    for name, size in sizes.items():
        if size < spec.group(name).size:
            raise ValueError(
                f"group {name!r} has {spec.group(name).size} units, so it cannot be padded to "
                f"{size}."
            )
    return _sized(params, spec, sizes, optimizer, optimizer_state, kinds, batch_stats)


def unpad(
    params: Any,
    padded: UnitSpec,
    spec: UnitSpec,
    *,
    optimizer: Any = None,
    optimizer_state: Any = None,
    kinds: Mapping[str, Kind] | None = None,
    batch_stats: Any = None,
) -> Grown:
    """Takes the padding off: the network as it is at its own widths.

    Args:
        params: padded parameters.
        padded: their padded spec, `pad(...).spec`.
        spec: the spec of the active units.
        optimizer: as for `pad`.
        optimizer_state: as for `pad`.
        kinds: as for `grow`.
        batch_stats: padded batch statistics.

    Returns:
        The network without padding.

    Raises:
        ValueError: as for `pad`.
    """
    sizes = {group.name: group.size for group in spec.groups if _differs(group, padded)}
    return _sized(params, padded, sizes, optimizer, optimizer_state, kinds, batch_stats)


def grow_padded(
    params: Any,
    padded: UnitSpec,
    spec: UnitSpec,
    group: str | Mapping[str, int],
    num_units: int | None = None,
    *,
    optimizer: Any = None,
    optimizer_state: Any = None,
    kinds: Mapping[str, Kind] | None = None,
    batch_stats: Any = None,
    **options: Any,
) -> Grown:
    """Grows a padded network inside its padding: all shapes stay.

    On the host, one network at a time: of an ensemble take the members that grow, and put them back
    with `leaf.at[number].set(...)`.

    Args:
        params: padded parameters.
        padded: their padded spec, `pad(...).spec`.
        spec: the spec of the active units.
        group: as for `grow`.
        num_units: as for `grow`.
        optimizer: the optimizer, with or without `only_active`.
        optimizer_state: its state for the padded parameters.
        kinds: as for `grow`; pass `state_kinds(optimizer, params)` where it is called often.
        batch_stats: padded batch statistics.
        **options: of `grow`.

    Returns:
        The padded network and the spec of its active units.

    Raises:
        ValueError: as for `grow`; if the group would grow beyond its padding.
    """
    state: dict[str, Any] = {"optimizer": optimizer, "kinds": kinds}
    narrow = unpad(
        params, padded, spec, optimizer_state=optimizer_state, batch_stats=batch_stats, **state
    )
    wide = grow(
        narrow.params,
        spec,
        group,
        num_units,
        optimizer_state=narrow.optimizer_state,
        batch_stats=narrow.batch_stats,
        **state,
        **options,
    )
    return repad(wide, padded, optimizer_state, optimizer=optimizer, kinds=kinds)


def repad(
    wide: Any,
    padded: UnitSpec,
    optimizer_state: Any = None,
    *,
    optimizer: Any = None,
    kinds: Mapping[str, Kind] | None = None,
) -> Grown:
    """Puts a network whose widths have changed back into its padding.

    Args:
        wide: `Grown` or `Shrunk`, of what `unpad` returned.
        padded: the padded spec.
        optimizer_state: the padded state that was unpadded: what `pfn` has measured of the padded
            blocks is taken from it.
        optimizer: as for `pad`.
        kinds: as for `grow`.

    Returns:
        The padded network and the spec of its active units.

    Raises:
        ValueError: if a group is larger than its padding.
    """
    for group in wide.spec.groups:
        if group.size > padded.group(group.name).size:
            raise ValueError(
                f"group {group.name!r} would have {group.size} units, but is padded to "
                f"{padded.group(group.name).size}: grow by less, or pad to more."
            )
    sizes = {group.name: group.size for group in padded.groups if _differs(group, wide.spec)}
    new = pad(
        wide.params,
        wide.spec,
        sizes,
        optimizer=optimizer,
        optimizer_state=wide.optimizer_state,
        kinds=kinds,
        batch_stats=wide.batch_stats,
    )
    state = new.optimizer_state
    if state is not None and optimizer_state is not None:
        state = jax.tree.map(
            lambda new, old: old if isinstance(new, PFNState) else new,
            state,
            optimizer_state,
            is_leaf=lambda node: isinstance(node, PFNState),
        )
    return Grown(new.params, wide.spec, state, new.batch_stats)


def only_active(
    optimizer: optax.GradientTransformation, padded: UnitSpec
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer: units in the padding get no gradients and make no steps.

    Call it as `update(gradients, state, params, active_units=widths(spec))`, with the spec of the
    active units. The numbers may be traced, and differ between the members of an ensemble under
    `jax.vmap`. Groups that are left out are active as a whole.

    Args:
        optimizer: any optax optimizer or chain, `pfn` in it too.
        padded: the padded spec, of the same tree as the parameters.

    Returns:
        The transformation; its state is that of the optimizer.

    Raises:
        ValueError: from `update`, if `active_units` is missing or names an unknown group, or the
            parameters are not those of the padded spec.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from pfn_optax.growth import only_active
        >>> from pfn_optax.units import unit_spec
        >>> params = {"in": jnp.ones((1, 3)), "out": jnp.ones((3, 1))}
        >>> def predict(params, x):
        ...     return jnp.tanh(x @ params["in"]) @ params["out"]
        >>> spec = unit_spec(predict, params, jnp.ones((1, 1)))
        >>> optimizer = only_active(optax.sgd(1.0), spec)
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update(params, state, params, active_units={"in": 2})
        >>> print(updates["in"])
        [[-1. -1.  0.]]
    """
    inner = optax.with_extra_args_support(optimizer)

    def update(updates, state, params=None, *, active_units=None, **extra_args):
        if active_units is None:
            raise ValueError(
                "only_active needs the number of active units of each group: call "
                "update(gradients, state, params, active_units=widths(spec))."
            )
        updates = _masked(updates, padded, active_units)
        updates, state = inner.update(updates, state, params, **extra_args)
        return _masked(updates, padded, active_units), state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _masked(tree: Any, padded: UnitSpec, active_units: Mapping[str, Any]) -> Any:
    """Zero where one of the units that an entry belongs to is not active."""
    prefix = places_of(padded, tree, None).params
    masks: dict[Path, list[jax.Array]] = {}
    shapes = {(*prefix, *path): jnp.shape(leaf) for path, leaf in named_leaves(tree)}
    for name, count in active_units.items():
        group = padded.group(name)
        is_active = jnp.arange(group.size) < count
        for member in group.members:
            if member.path in shapes:
                mask = _on_axis(is_active, group, member, shapes[member.path])
                masks.setdefault(member.path, []).append(mask)
    leaves, treedef = jax.tree.flatten(tree)
    for number, (path, leaf) in enumerate(named_leaves(tree)):
        for mask in masks.get((*prefix, *path), []):
            leaf = jnp.where(mask, leaf, jnp.zeros((), leaf.dtype))
        leaves[number] = leaf
    return treedef.unflatten(leaves)


def _on_axis(
    is_active: jax.Array, group: Group, member: Member, shape: tuple[int, ...]
) -> jax.Array:
    stretch = jnp.broadcast_to(is_active[:, None], (member.before, group.size, member.after))
    after = shape[member.axis] - member.start - stretch.size
    mask = jnp.pad(stretch.ravel(), (member.start, after), constant_values=True)
    return mask.reshape([-1 if axis == member.axis else 1 for axis in range(len(shape))])


def _sized(
    params: Any,
    spec: UnitSpec,
    sizes: Mapping[str, int],
    optimizer: Any,
    optimizer_state: Any,
    kinds: Mapping[str, Kind] | None,
    batch_stats: Any,
) -> Grown:
    fast = params.fast if isinstance(params, optax.LookaheadParams) else params
    places = places_of(spec, fast, batch_stats)
    for name in sizes:
        require_growable(spec, name)
    changes: dict[str, Change] = {name: Sized(size) for name, size in sizes.items()}
    resizing = Resizing.of(spec, changes, places)
    return applied(resizing, params, batch_stats, optimizer, optimizer_state, kinds=kinds)


def _differs(group: Group, other: UnitSpec) -> bool:
    return group.size != other.group(group.name).size
