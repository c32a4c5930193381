"""Fewer units for a group, with a change of the loss that is measured and bounded."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import optax

from pfn_optax.growth.arguments import (
    arrays,
    joined,
    numbers_of,
    require_growable,
    require_statistics,
)
from pfn_optax.growth.changes import Change, Kind, Merge
from pfn_optax.growth.grow import applied
from pfn_optax.growth.resizing import Resizing, places_of
from pfn_optax.growth.state import Rebuild
from pfn_optax.landscape.clusters import clusters_of, directions, is_homogeneous
from pfn_optax.landscape.comparison import compared
from pfn_optax.landscape.refit import Refit
from pfn_optax.paths import Path
from pfn_optax.units import Group, UnitSpec


class Shrunk(NamedTuple):
    """A network with fewer units, or the old one where its loss would grow too much.

    Attributes:
        params: the smaller parameters, with the structure, dtypes and shardings of the wide ones.
        spec: their groups of units.
        optimizer_state: the optimizer's state for them; None if none was given.
        batch_stats: the smaller batch statistics; None if none were given.
        is_accepted: whether it is the smaller one. If not, everything is as it was.
        loss_change: by how much the mean loss on the batches is larger; None without a loss.
        members: for each group the old units that each new one stands for, the one that stays
            first.
    """

    params: Any
    spec: UnitSpec
    optimizer_state: Any
    batch_stats: Any
    is_accepted: bool
    loss_change: float | None
    members: dict[str, tuple[tuple[int, ...], ...]]


def shrink(
    params: Any,
    spec: UnitSpec,
    group: str | Mapping[str, int],
    num_units: int | None = None,
    *,
    function: Callable[..., Any] | None = None,
    batches: Iterable[tuple[Any, ...]] = (),
    loss: Callable[..., Any] | None = None,
    max_loss_increase: float | None = None,
    rebuild: Callable[[UnitSpec], Callable[..., Any]] | None = None,
    ridge: float = 1e-6,
    optimizer: Any = None,
    optimizer_state: Any = None,
    rebuild_optimizer: Rebuild | None = None,
    kinds: Mapping[str, Kind] | None = None,
    extra_args: Mapping[str, Any] | None = None,
    batch_stats: Any = None,
) -> Shrunk:
    r"""Removes units from groups: those that nothing reads, then those that are most like others.

    Condensation (see `pfn_optax.landscape.condense`) to a given number of units. With data the
    weights that read the units that stay are refitted by least squares, where the activations can
    be read off the function (not in loops). Splitting units and removing as many again gives the
    network back, with the state of its optimizer.

    The optimizer's state goes the way of `grow`: momentum of the weights that go into merged units
    is summed with the weights of the mixture, that of the weights that read them stays that of
    the unit that stays; square roots of second moments are added, as gradients of units that are
    alike point the same way, or opposite ways where they are read with opposite signs.

    Args:
        params: the parameters, as for `grow`.
        spec: their groups.
        group: name of the group to shrink, or the numbers of units to remove by group.
        num_units: number of units to remove, with one group.
        function: `function(tree, *batch)`, as given to `unit_spec`, of the parameters (and batch
            statistics) to the outputs.
        batches: tuples of its further arguments.
        loss: `loss(outputs, *batch)`, the mean over a batch.
        max_loss_increase: the largest increase of the mean loss over the batches with which the
            smaller network is taken. Default: any.
        rebuild: from the new spec to the function of the smaller network, where `function` fixes
            the widths, as a Flax module does.
        ridge: of the refit.
        optimizer: the optax optimizer, with `optimizer_state`.
        optimizer_state: its state.
        rebuild_optimizer: as for `grow`.
        kinds: as for `grow`.
        extra_args: as for `grow`.
        batch_stats: batch statistics and other state with an entry per unit.

    Returns:
        The smaller network, or the one given if its loss would grow by more than allowed. Units
        that stay are in the order in which they were.

    Raises:
        ValueError: as for `grow`; if there are not that many units, if a bound has nothing to be
            measured on, or if units are to be merged that are neither equal nor homogeneous and
            there is no data.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pfn_optax.growth import grow, shrink
        >>> from pfn_optax.units import unit_spec
        >>> params = {"in": jnp.asarray([[1.0, 2.0]]), "out": jnp.asarray([[3.0], [4.0]])}
        >>> def predict(params, x):
        ...     return jnp.tanh(x @ params["in"]) @ params["out"]
        >>> spec = unit_spec(predict, params, jnp.ones((1, 1)))
        >>> wide = grow(params, spec, "in", 2, key=jax.random.key(0))
        >>> again = shrink(wide.params, wide.spec, "in", 2)
        >>> again.params["in"].tolist(), again.params["out"].tolist(), again.members["in"]
        ([[1.0, 2.0]], [[3.0], [4.0]], ((0, 3), (1, 2)))

    Reference:
        Zhang, Zhang, Luo, Xu, "Embedding principle of loss landscape of deep neural networks",
        NeurIPS 2021.
    """
    numbers = numbers_of(group, num_units)
    batches = list(batches)
    _require_data(function, batches, loss, max_loss_increase)
    if not 0 < ridge < float("inf"):
        raise ValueError(f"ridge must be positive, got {ridge}.")
    fast = params.fast if isinstance(params, optax.LookaheadParams) else params
    places = places_of(spec, fast, batch_stats)
    groups = {name: require_growable(spec, name) for name in numbers}
    for name, number in numbers.items():
        if number >= groups[name].size:
            raise ValueError(
                f"group {name!r} has {groups[name].size} units, of which at least one must stay, "
                f"got {number} to remove."
            )
    leaves = arrays(places, fast, batch_stats)
    require_statistics(groups.values(), places, leaves, batch_stats)
    tree = None if function is None else joined(places, fast, batch_stats)
    refit = None if function is None else Refit(function, tree, batches)
    changes: dict[str, Change] = {}
    members = {}
    for name, number in numbers.items():
        changes[name], members[name] = _merged(groups[name], number, leaves, refit, ridge)
    resizing = Resizing.of(spec, changes, places)
    change = None
    if function is not None and loss is not None:
        small = applied(resizing, fast, batch_stats, None, None)
        new_tree = joined(places, small.params, small.batch_stats)
        new_function = function if rebuild is None else rebuild(small.spec)
        change = compared(
            (function, tree), (new_function, new_tree), batches, loss=loss
        ).loss_change
    if max_loss_increase is not None and not (change is not None and change <= max_loss_increase):
        return Shrunk(params, spec, optimizer_state, batch_stats, False, change, members)
    new = applied(
        resizing,
        params,
        batch_stats,
        optimizer,
        optimizer_state,
        rebuild=rebuild_optimizer,
        kinds=kinds,
        extra_args=extra_args,
    )
    return Shrunk(new.params, new.spec, new.optimizer_state, new.batch_stats, True, change, members)


def _merged(
    group: Group, number: int, leaves: Mapping[Path, np.ndarray], refit: Refit | None, ridge: float
) -> tuple[Merge, tuple[tuple[int, ...], ...]]:
    """Which units stay, and what they stand for."""
    incoming, outgoing = directions(group, leaves)
    owner = _without_loss(number, incoming, outgoing)
    if owner is not None:
        members = tuple(
            (unit, *(other for other in np.flatnonzero(owner == unit).tolist() if other != unit))
            for unit in np.flatnonzero(owner == np.arange(group.size)).tolist()
        )
        kept = np.asarray([units[0] for units in members])
        mixing = (kept[:, None] == owner).astype(float)
        return _merge(kept, mixing, outgoing), members
    clusters = clusters_of(group, leaves, similarity=1.0, amplitude=0.0, size=group.size - number)
    order = np.argsort([min(units) for units in clusters.members])
    members = tuple(clusters.members[place] for place in order)
    kept, mixing = clusters.kept[order], clusters.mixing[order]
    if refit is not None and refit.reads(group.name):
        mixing = refit.mixing(group.name, kept, mixing, ridge)
    elif not is_homogeneous(group):
        raise ValueError(
            f"the units of group {group.name!r} are not homogeneous in their incoming weights "
            "(tanh, gelu, a bias that is not scaled along, a norm), and those to be merged are not "
            "equal: give function and batches, to refit what reads them (not in a loop)."
        )
    return _merge(kept, mixing, outgoing), members


def _without_loss(number: int, incoming: np.ndarray, outgoing: np.ndarray) -> np.ndarray | None:
    """Which unit each one goes into if so many that nothing reads or that are copies can go.

    The last ones first, as new units are behind the old ones; -1 for none.
    """
    owner, left = np.arange(len(incoming)), number
    tolerance = 1e-6 * np.abs(incoming).max()
    for unit in range(len(incoming) - 1, 0, -1):
        if not left:
            break
        equal = np.abs(incoming[:unit] - incoming[unit]).max(axis=1) <= tolerance
        if not outgoing[unit].any():
            owner[unit] = -1
        elif equal.any():
            owner[unit] = np.argmax(equal)
        left -= owner[unit] != unit
    return None if left else owner


def _merge(kept: np.ndarray, mixing: np.ndarray, outgoing: np.ndarray) -> Merge:
    # The gradient of an incoming weight is proportional to what is read of the unit.
    together = (mixing @ outgoing)[np.abs(mixing).argmax(axis=0)]
    return Merge(kept, mixing, np.where(np.sum(outgoing * together, axis=1) < 0, -1.0, 1.0))


def _require_data(
    function: Any, batches: list[tuple[Any, ...]], loss: Any, max_loss_increase: float | None
) -> None:
    if (function is None) != (not batches):
        raise ValueError("shrink needs function and batches together, got one without the other.")
    if loss is not None and function is None:
        raise ValueError("the loss is measured on outputs: give function and batches with it.")
    if max_loss_increase is not None and loss is None:
        raise ValueError(
            "max_loss_increase is a bound of the measured change of the loss: give function, "
            "batches and loss with it."
        )
