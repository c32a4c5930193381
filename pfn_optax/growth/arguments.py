"""What `grow` and `shrink` are given, checked and laid out by leaf."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pfn_optax.growth.resizing import Places, host
from pfn_optax.paths import Path, named_leaves
from pfn_optax.units import Group, UnitSpec


def numbers_of(group: str | Mapping[str, int], num_units: int | None) -> dict[str, int]:
    """The numbers of units by group; refuses what are none."""
    if isinstance(group, Mapping) == (num_units is not None):
        raise ValueError(
            "pass one group and num_units, or a mapping of groups to numbers of units alone, got "
            f"{group!r} and {num_units!r}."
        )
    numbers = dict(group) if isinstance(group, Mapping) else {group: num_units}
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < 1:
            raise ValueError(
                f"num_units must be an integer of at least 1, got {number!r} for {name!r}."
            )
    if not numbers:
        raise ValueError("there must be at least one group, got none.")
    return {name: int(number) for name, number in numbers.items() if number is not None}


def require_growable(spec: UnitSpec, name: str) -> Group:
    """The group of a name, if the number of its units can be changed."""
    if all(group.name != name for group in spec.groups):
        try:
            spec.group(name)
        except ValueError as error:
            raise ValueError(
                f"{error} Inputs, outputs and what is tied to them have no group: their sizes are "
                "given by the data."
            ) from None
    group = spec.group(name)
    if not group.is_splittable:
        raise ValueError(
            f"the number of units of group {name!r} cannot be changed without changing the "
            "function: they are summed without weights (a norm or a softmax over them, a mean) or "
            "multiplied with each other (queries and keys), see Group.is_splittable; grow what "
            "stands between them instead."
        )
    return group


def arrays(places: Places, params: Any, batch_stats: Any) -> dict[Path, np.ndarray]:
    """The leaves of parameters and batch statistics by their path in the tree of the spec."""
    return {
        (*prefix, *path): host(leaf, path)
        for prefix, tree in zip(places, (params, batch_stats), strict=True)
        for path, leaf in named_leaves(tree)
        if not jnp.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.extended)
    }


def require_statistics(
    groups: Iterable[Group], places: Places, leaves: Mapping[Path, np.ndarray], batch_stats: Any
) -> None:
    """Refuses batch statistics with an entry per unit that the spec does not know of.

    Running statistics are not read in training mode, so a spec that was made there lacks them.
    """
    statistics = [(*places.batch_stats, *path) for path, _ in named_leaves(batch_stats)]
    for group in groups:
        members = {member.path for member in group.members}
        own = {path[len(places.params) : -1] for path in members}
        for path in statistics:
            module = path[len(places.batch_stats) : -1]
            if path in members or not module or module not in own or path not in leaves:
                continue
            if group.size in leaves[path].shape:
                raise ValueError(
                    f"{'/'.join(path[len(places.batch_stats) :])} of the batch statistics seems to "
                    f"have an entry for each unit of {group.name!r}, but the spec does not know of "
                    "it: was it made in training mode, where running statistics are not read? Make "
                    "it in evaluation mode."
                )


def gradient_leaves(
    places: Places, leaves: Mapping[Path, np.ndarray], gradients: Any
) -> dict[Path, np.ndarray]:
    """Gradients by path; zeros for batch statistics, which have none."""
    given = arrays(places, gradients, None)
    for path, leaf in given.items():
        if path not in leaves or leaves[path].shape != leaf.shape:
            raise ValueError(
                f"gradients have shape {leaf.shape} for {'/'.join(path) or 'params'}, where the "
                "parameters have another one: pass gradients of these parameters."
            )
    return {path: given.get(path, np.zeros(leaf.shape)) for path, leaf in leaves.items()}


def joined(places: Places, params: Any, batch_stats: Any) -> Any:
    """The tree that the spec was made for."""
    if places.params == ("0",):
        return params, batch_stats
    if places.params == ("params",):
        return {"params": params, "batch_stats": batch_stats}
    if batch_stats is None:
        return params
    raise ValueError(
        "the spec was made for one tree of parameters and batch statistics, which cannot be put "
        "together here: prove it with check_spec itself, and leave check out."
    )


def require_whole_cycle(state: Any) -> None:
    """Refuses the state of `optax.MultiSteps` between two of its updates."""
    for node in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, optax.MultiStepsState)):
        if isinstance(node, optax.MultiStepsState):
            done = int(np.asarray(jax.tree.leaves(node.mini_step)[0]))
            if done:
                raise ValueError(
                    f"optax.MultiSteps is in the middle of a cycle, {done} gradients have been "
                    "accumulated and not been used: call the controller after an update, where "
                    "optimizer.has_updated(state)."
                )
