"""The optimizer's state for the network of the new size.

It is the state that the optimizer would hold had the new network been trained along the embedded
trajectory: at every step with the parameters that the change makes of the old ones, and with the
gradients there, which are those of `changes`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from pfn_optax.growth.changes import Kind
from pfn_optax.growth.factored import Factors, factors_of, resized_factors
from pfn_optax.growth.kinds import KNOWN_FIELDS, state_kinds
from pfn_optax.growth.labels import StateLeaf, state_leaves
from pfn_optax.growth.resizing import Resizing, host, placed_like
from pfn_optax.paths import Path, named_leaves
from pfn_optax.state import PFNState
from pfn_optax.units import UnitSpec

Rebuild = Callable[[Any, UnitSpec], Any]


def resized_state(
    optimizer: Any,
    state: Any,
    resizing: Resizing,
    params: Any,
    new_params: Any,
    *,
    rebuild: Rebuild | None = None,
    kinds: Mapping[str, Kind] | None = None,
    extra_args: Mapping[str, Any] | None = None,
) -> Any:
    """Changes an optimizer's state as the parameters were.

    Args:
        optimizer: what the state is of.
        state: its state.
        resizing: the change.
        params: the old parameters.
        new_params: the new ones.
        rebuild: from the new parameters and their spec to the optimizer for them, where it
            depends on their sizes (a graph of units, a reference).
        kinds: what leaves or fields are made of, see `state_kinds`; goes before what is found.
        extra_args: further arguments of the optimizer's `update`.

    Returns:
        The state of the new size.

    Raises:
        ValueError: if the state is not of the optimizer, or a leaf of it cannot follow.
    """
    start = optimizer.init(params)
    _require_state_of(start, state)
    initial = _initial(optimizer, rebuild, resizing, new_params)
    leaves, treedef = jax.tree.flatten(state)
    if jax.tree.structure(initial) != treedef:
        raise ValueError(
            "the optimizer's state has another structure for the new sizes: choose options under "
            "which it has not."
        )
    # Counts and the like stay, arrays of another size start anew.
    merged = jax.tree.map(_kept, state, initial, is_leaf=lambda node: isinstance(node, PFNState))
    new_leaves, initial_leaves = jax.tree.leaves(merged), jax.tree.leaves(initial)
    fast = params.fast if isinstance(params, optax.LookaheadParams) else params
    shapes = {path: tuple(np.shape(leaf)) for path, leaf in named_leaves(fast)}
    labels = state_leaves(optimizer, params, state)
    start_leaves = jax.tree.leaves(start)
    prefix = resizing.places.params
    moving = {
        number: (*prefix, *label.path)
        for number, label in enumerate(labels)
        if label.path in shapes and resizing.concerns((*prefix, *label.path))
    }
    _require_one_array(labels, shapes, leaves, new_leaves)
    factors = factors_of(labels)
    known = _Known(optimizer, params, kinds or {}, extra_args)
    for number, path in moving.items():
        label = labels[number]
        shape = shapes[label.path or ()]
        name = f"{label.name} of the optimizer's state"
        if number in factors:
            old = Factors(*(host(leaves[factors[number][f]], (name,)) for f in _FACTORS))
            is_factored = np.size(new_leaves[factors[number]["v_row"]]) > 1
            new = resized_factors(old, shape, resizing, path, is_factored)
            value = getattr(new, _FACTORS[label.field])
        else:
            value = host(leaves[number], (name,))
            num_own = value.ndim - len(shape)
            if num_own < 0 or value.shape[num_own:] != shape:
                if value.size <= 1:  # one number for the whole leaf
                    continue
                raise ValueError(
                    f"{name} has shape {value.shape} for a parameter of shape {shape}: it cannot "
                    "follow; choose an optimizer whose state has the shapes of the parameters."
                )
            kind = known.kind(label, value)
            if kind is None:
                continue
            value = _followed(
                resizing, path, value, kind, num_own, start_leaves[number], initial_leaves[number]
            )
        new_leaves[number] = placed_like(value, leaves[number], (name,))
    return treedef.unflatten(new_leaves)


def _followed(
    resizing: Resizing,
    path: Path,
    value: np.ndarray,
    kind: Kind,
    num_own: int,
    start: Any,
    new_start: Any,
) -> np.ndarray:
    """One leaf; what is made of gradients is added to what it starts as."""
    start, new_start = np.asarray(start), np.asarray(new_start)
    if kind.of != "gradients" or not start.any():
        return resizing.leaf(path, value, kind, num_own)
    return (new_start + resizing.leaf(path, value - start, kind, num_own)).astype(value.dtype)


def _require_one_array(
    labels: list[StateLeaf], shapes: Mapping[Path, Any], leaves: list[Any], new_leaves: list[Any]
) -> None:
    """Refuses leaves that belong to a part of a parameter, or to all of them."""
    for label, old, new in zip(labels, leaves, new_leaves, strict=True):
        if label.path is not None and label.path not in shapes and np.shape(old) != np.shape(new):
            raise ValueError(
                f"{label.name} of the optimizer's state is not that of one parameter: it cannot "
                "follow; choose an optimizer whose state has the shapes of the parameters."
            )


_FACTORS = {"v_row": "row", "v_col": "column", "v": "whole"}


class _Known:
    """What leaves are made of: as the caller says, as the optimizer shows, as fields are named."""

    def __init__(
        self,
        optimizer: Any,
        params: Any,
        given: Mapping[str, Kind],
        extra_args: Mapping[str, Any] | None,
    ):
        self._arguments = optimizer, params
        self._given, self._extra_args = given, extra_args
        self._found: Mapping[str, Kind] | None = None
        self._reason = ""

    def kind(self, label: StateLeaf, value: np.ndarray) -> Kind | None:
        """The kind of a leaf; None for one that has not been used yet."""
        given = self._given.get(label.name, self._given.get(label.field))
        if given is not None:
            return given
        found = self._probed().get(label.name, KNOWN_FIELDS.get(label.field))
        if found is not None:
            return found
        if value.size and np.all(value == value.ravel()[0]):
            return None
        raise ValueError(
            f"it is not known what {label.name} of the optimizer's state is made of, so it cannot "
            "follow: it is no power of the gradients, entry by entry, and no copy of the "
            f'parameters. Say what it is near to, as kinds={{"{label.field}": '
            f'Kind("gradients", degree=1)}}.{self._reason}'
        )

    def _probed(self) -> Mapping[str, Kind]:
        if self._found is None:
            try:
                self._found = state_kinds(*self._arguments, extra_args=self._extra_args)
            except Exception as error:  # whatever an optimizer raises that misses an argument
                self._found = {}
                self._reason = (
                    f" Its update could not be tried ({error}): pass extra_args= if it needs more."
                )
        return self._found


def _require_state_of(expected: Any, state: Any) -> None:
    is_same = jax.tree.structure(expected) == jax.tree.structure(state) and all(
        np.shape(old) == new.shape
        for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True)
    )
    if not is_same:
        raise ValueError(
            "optimizer_state is not a state of the optimizer for these parameters: pass the "
            "optimizer that made it, and the parameters that it was made for."
        )


def _initial(optimizer: Any, rebuild: Rebuild | None, resizing: Resizing, new_params: Any) -> Any:
    new_optimizer = optimizer if rebuild is None else rebuild(new_params, resizing.spec)
    try:
        return new_optimizer.init(new_params)
    except ValueError as error:
        raise ValueError(
            "the optimizer cannot be initialised for the new sizes; build it anew for them with "
            f"rebuild_optimizer=. It says: {error}"
        ) from error


def _kept(old: Any, new: Any) -> Any:
    """What does not lie like the parameters: as it was if it has the same size, else anew."""
    is_same = all(
        np.shape(left) == np.shape(right)
        for left, right in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
    )
    if is_same:
        return old
    if isinstance(old, PFNState):
        # The steps measured count those of the averages, which start anew.
        counts = ("pfn_step", "pfn_nonfinite", "pfn_diagnoses")
        return new._replace(**{name: getattr(old, name) for name in counts})
    return new
