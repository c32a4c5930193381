"""More units for a group, without a change of the function: split ones or fresh ones."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import optax

from pfn_optax.growth.arguments import (
    arrays,
    gradient_leaves,
    joined,
    numbers_of,
    require_growable,
    require_statistics,
)
from pfn_optax.growth.changes import Change, Kind
from pfn_optax.growth.choice import Units, fresh_of, generator, require_key, split_of
from pfn_optax.growth.fresh import fresh_leaves
from pfn_optax.growth.resizing import Resizing, places_of
from pfn_optax.growth.state import Rebuild, resized_state
from pfn_optax.units import UnitSpec, check_spec

How = Literal["split", "fresh"]


class Grown(NamedTuple):
    """A network with more units and the same function.

    Attributes:
        params: the wider parameters, with the structure, dtypes and shardings of the narrow ones.
        spec: their groups of units.
        optimizer_state: the optimizer's state for them; None if none was given.
        batch_stats: the wider batch statistics; None if none were given.
    """

    params: Any
    spec: UnitSpec
    optimizer_state: Any = None
    batch_stats: Any = None


def grow(
    params: Any,
    spec: UnitSpec,
    group: str | Mapping[str, int],
    num_units: int | None = None,
    *,
    how: How = "split",
    units: Units = "outgoing",
    spread: float = 0.1,
    gradients: Any = None,
    init: Any = None,
    optimizer: Any = None,
    optimizer_state: Any = None,
    rebuild_optimizer: Rebuild | None = None,
    kinds: Mapping[str, Kind] | None = None,
    extra_args: Mapping[str, Any] | None = None,
    batch_stats: Any = None,
    check: tuple[Any, ...] | None = None,
    key: jax.Array | None = None,
) -> Grown:
    r"""Adds units to groups; the function, the loss and what the optimizer knows stay.

    `how="split"` replaces a unit with incoming weights w and outgoing weights a by copies
    (w, s_1 a), (w, s_2 a), ... with shares that sum to 1. The gradient of each copy of w is
    s_i times the old one, that of each s_i a the whole old one. So copies with equal shares are
    equal, get equal gradients and stay equal for ever, as long as the optimizer treats all entries
    alike: the `spread` between the shares is what lets them part. Under SGD the copies of w part at
    the first step. Adam divides the shares out again, and the copies of w part only once their
    outgoing weights have, a step later and more slowly.

    `how="fresh"` adds units with random incoming weights and outgoing weights of zero, which can
    also revive a group whose units are all dead. Their biases, norm parameters and batch
    statistics are those of old units drawn at random, unless `init` brings others. It changes the
    function where units are compared with each other (a maximum over them), which splits do not.

    The optimizer's state is the one that it would hold had the wide network been trained along the
    embedded trajectory. Copies and averages of parameters go as parameters do. What is made of
    gradients goes by their dual, not by the map of the weights: momentum (degree 1) of copied
    incoming weights is multiplied by the share and that of outgoing ones is copied whole, Adam's
    second moment (degree 2) by the square of the share. The accumulated gradients of an unfinished
    cycle of `optax.MultiSteps` have degree 1, and the cycle goes on. The degree of each leaf is
    found by running the optimizer, see `state_kinds`; weight decay in front of the momentum, and
    norms that are taken over whole tensors (clipping, trust ratios), are left out of account.
    Fresh units start with a momentum of zero. Their second moments start with the means over the
    old units: from zero, the first steps of Adam would be 3.2 times as long as its usual ones, as
    its bias corrections are over. Factored second moments (`optax.adafactor`) are multiplied out
    and factored again. What has no axis of units but depends on sizes (the blocks of `pfn`) starts
    anew, its counts go on.

    On the host: nothing given is changed, and nothing is returned if anything is wrong.

    Args:
        params: the parameters, as the optimizer has them; with `optax.lookahead` the pair.
        spec: their groups, of `unit_spec(function, params, ...)`; with batch statistics of the pair
            (params, batch_stats), of {"params": params, "batch_stats": batch_stats} or of one
            tree that holds the leaves of both.
        group: name of the group to grow, or the numbers of units to add by group: all at once,
            so that programs are compiled only once more.
        num_units: number of units to add, with one group.
        how: `"split"` or `"fresh"`.
        units: which to split: the units themselves (by group, where there are several), as many
            as are added, or those with the largest `"outgoing"` weights or incoming `"gradient"`.
        spread: by how much the shares of the copies of a unit differ: (1 ± spread) / 2 for two.
            0 for equal shares.
        gradients: of the parameters, for `units="gradient"`.
        init: for fresh units, freshly initialised parameters of the new sizes, from which the new
            units' weights are taken. By default normal numbers of the root mean square of the
            leaf; of leaves with one axis or of positive entries, the values of a random unit.
        optimizer: the optax optimizer, with `optimizer_state`.
        optimizer_state: its state.
        rebuild_optimizer: from the new parameters and spec to the optimizer for them, where it
            depends on sizes: `with_pfn(graph=unit_graph(...))`, `with_alignment`.
        kinds: what leaves of the state are made of, by the name of the leaf or of its field,
            where it cannot be found.
        extra_args: what the optimizer's `update` needs besides, such as `value=0.0`.
        batch_stats: batch statistics and other state with an entry per unit.
        check: `(function, *args)`, to prove the spec with `check_spec` before anything else.
        key: random key; without one shares must be equal.

    Returns:
        The wider network. Old units stay where they are, new ones follow.

    Raises:
        UnitSpecError: if the spec fails its check.
        ValueError: if there is no such group (inputs and outputs are none), its units cannot be
            split, a number is out of range, a key or an argument is missing, a tree is not of the
            same model, the spec lacks batch statistics, a leaf of the state cannot follow, or the
            devices of a mesh cannot share the new size evenly.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from pfn_optax.growth import grow
        >>> from pfn_optax.units import unit_spec
        >>> params = {"in": jnp.asarray([[1.0, 2.0]]), "out": jnp.asarray([[3.0], [4.0]])}
        >>> def predict(params, x):
        ...     return jnp.tanh(x @ params["in"]) @ params["out"]
        >>> spec = unit_spec(predict, params, jnp.ones((1, 1)))
        >>> optimizer = optax.adam(0.1)
        >>> state = optimizer.init(params)
        >>> wide = grow(
        ...     params,
        ...     spec,
        ...     "in",
        ...     1,
        ...     spread=0.5,
        ...     key=jax.random.key(0),
        ...     optimizer=optimizer,
        ...     optimizer_state=state,
        ... )
        >>> wide.params["in"].tolist(), jnp.round(wide.params["out"], 2).tolist()
        ([[1.0, 2.0, 2.0]], [[3.0], [3.0], [1.0]])
        >>> x = jnp.ones((1, 1))
        >>> jnp.allclose(predict(wide.params, x), predict(params, x)).item()
        True
        >>> wide.optimizer_state[0].mu["out"].shape
        (3, 1)

    Reference:
        Zhang, Zhang, Luo, Xu, "Embedding principle of loss landscape of deep neural networks",
        NeurIPS 2021; Chen, Goodfellow, Shlens, "Net2Net: accelerating learning via knowledge
        transfer", ICLR 2016.
    """
    numbers = numbers_of(group, num_units)
    _require_options(how, spread, init)
    fast = params.fast if isinstance(params, optax.LookaheadParams) else params
    places = places_of(spec, fast, batch_stats)
    if check is not None:
        function, *args = check
        check_spec(spec, function, joined(places, fast, batch_stats), *args)
    leaves = arrays(places, fast, batch_stats)
    groups = {name: require_growable(spec, name) for name in numbers}
    require_statistics(groups.values(), places, leaves, batch_stats)
    changes: dict[str, Change] = {}
    for number, (name, added) in enumerate(numbers.items()):
        own = groups[name]
        if how == "fresh":
            require_key(key, "fresh units are drawn")
            changes[name] = fresh_of(own, added, generator(key, number))
            continue
        if spread:
            require_key(key, "with a spread, the shares of the copies are drawn")
        slopes = None if gradients is None else gradient_leaves(places, leaves, gradients)
        draw = generator(key, number) if spread else None
        changes[name] = split_of(own, added, units, spread, leaves, slopes, draw)
    resizing = Resizing.of(spec, changes, places)
    if how == "fresh":
        draw = generator(key, len(numbers))
        fresh = fresh_leaves(resizing, leaves, init, draw)
        resizing = dataclasses.replace(resizing, fresh=fresh)
    return applied(
        resizing,
        params,
        batch_stats,
        optimizer,
        optimizer_state,
        rebuild=rebuild_optimizer,
        kinds=kinds,
        extra_args=extra_args,
    )


def applied(
    resizing: Resizing,
    params: Any,
    batch_stats: Any,
    optimizer: Any,
    optimizer_state: Any,
    **options: Any,
) -> Grown:
    """Changes parameters, batch statistics and the optimizer's state.

    Args:
        resizing: the change.
        params: the parameters.
        batch_stats: the batch statistics, or None.
        optimizer: the optimizer, or None.
        optimizer_state: its state, or None.
        **options: of `resized_state`.

    Returns:
        The network of the new size.

    Raises:
        ValueError: if there is a state but no optimizer, or something cannot follow.
    """
    if optimizer_state is not None and optimizer is None:
        raise ValueError("optimizer_state needs the optimizer that it is of: pass optimizer=.")
    places = resizing.places
    if isinstance(params, optax.LookaheadParams):
        new = optax.LookaheadParams(*(resizing.tree(tree, places.params) for tree in params))
    else:
        new = resizing.tree(params, places.params)
    stats = None if batch_stats is None else resizing.tree(batch_stats, places.batch_stats)
    state = None
    if optimizer_state is not None:
        state = resized_state(optimizer, optimizer_state, resizing, params, new, **options)
    return Grown(new, resizing.spec, state, stats)


def widths(spec: UnitSpec) -> dict[str, int]:
    """Returns the number of units of every group: the sizes to build a model with.

    A Linen module is built anew with the new widths, and takes the new parameters.

    Args:
        spec: the groups.

    Returns:
        By the name of the group.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.growth import grow, widths
        >>> from pfn_optax.units import unit_spec
        >>> params = {"in": jnp.ones((1, 2)), "out": jnp.ones((2, 1))}
        >>> spec = unit_spec(
        ...     lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"], params, jnp.ones((1, 1))
        ... )
        >>> widths(grow(params, spec, {"in": 3}, spread=0).spec)
        {'in': 5}
    """
    return {group.name: group.size for group in spec.groups}


def _require_options(how: str, spread: float, init: Any) -> None:
    if how not in ("split", "fresh"):
        raise ValueError(f'how must be "split" or "fresh", got {how!r}.')
    if not 0 <= spread < 1:
        raise ValueError(f"spread must be at least 0 and below 1, got {spread!r}.")
    if init is not None and how != "fresh":
        raise ValueError('init= is where fresh units come from: pass how="fresh" with it.')
