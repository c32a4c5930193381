"""Who gives and who gets units, and a training run during which they move."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.growth import costs
from experiments.growth.arms import CRITERIA, Member, cut
from experiments.growth.free_head import SUFFIX, cut_below_head, group_capacities
from experiments.growth.images import Images
from experiments.growth.programs import (
    Ensemble,
    Recipe,
    accuracies,
    batch_of,
    stacked,
    started,
    train,
)
from experiments.growth.reallocation import Reallocated, reallocate
from experiments.mlp import Params
from pfn_optax.growth import repad, unpad


class Wish(NamedTuple):
    """Where an arm wants units to go.

    Attributes:
        receiver: group to grow; None for no move.
        donors: groups to condense, the first ones first.
    """

    receiver: str | None
    donors: Sequence[str] = ()


Mover = Callable[[Member], Wish]


def by_cut(mode: str, *, is_head_free: bool = False) -> Mover:
    """To the group at the cut, from those with slack, those with the most first.

    A group passes what the scarcer of its two layers passes; its slack is what this is above the
    cut. Groups without slack give nothing.

    Args:
        mode: name of a capacity.
        is_head_free: whether the head is left out, as in `cut_below_head`.

    Returns:
        The mover.
    """

    def mover(member: Member) -> Wish:
        criterion = cut_below_head if is_head_free else cut
        receiver, *_ = [*criterion(mode, member), None]
        if receiver is None:
            return Wish(None)
        flow, passed = group_capacities(mode, member, is_head_free=is_head_free)
        donors = (name for name in passed if name != receiver and passed[name] > flow)
        return Wish(receiver, sorted(donors, key=lambda name: -passed[name]))

    return mover


def _first_from_last(criterion: str) -> Mover:
    """To the group that a criterion names first, from the one that it names last."""

    def mover(member: Member) -> Wish:
        receiver, *others = CRITERIA[criterion](member)
        return Wish(receiver, others[::-1])

    return mover


def mover_of(arm: str) -> Mover | None:
    """The mover of an arm of `CRITERIA`; None for "nowhere"."""
    if arm == "nowhere":
        return None
    if not arm.startswith("cut, "):
        return _first_from_last(arm)
    mode = arm.removeprefix("cut, ").removesuffix(SUFFIX)
    return by_cut(mode, is_head_free=arm.endswith(SUFFIX))


def run(
    recipe: Recipe,
    networks: Mapping[int, Params],
    data: Images,
    mover: Mover | None,
    *,
    steps: int,
    num_events: int,
    max_loss_increase: float,
    share: float = 0.5,
    num_measured: int = 512,
) -> list[dict[str, Any]]:
    """Trains networks together; after every `recipe.every` steps units move in each.

    Args:
        recipe: how to train and watch.
        networks: initial parameters by seed, which also sets the batches and what is drawn.
        data: the images.
        mover: who gives and gets; None for no moves.
        steps: of training.
        num_events: times that units move, at most.
        max_loss_increase: bound of a move, in nats.
        share: units that the receiver gets, as a share of its own.
        num_measured: images on which the bound is measured.

    Returns:
        What became of each network. No network has ever more parameters than at its start.
    """
    seeds = list(networks)
    ensemble = started(recipe, list(networks.values()))
    logs: list[list[dict[str, Any]]] = [[] for _ in seeds]
    budgets = [sum(leaf.size for leaf in jax.tree.leaves(own)) for own in networks.values()]
    flops, losses = np.zeros(len(seeds)), []
    for number in range(steps // recipe.every):
        sizes = [_sizes(recipe, widths) for widths in ensemble.widths]
        flops += [recipe.every * costs.step_flops(own, recipe.batch_size) for own in sizes]
        ensemble, own = train(recipe, ensemble, seeds, number * recipe.every, recipe.every, data)
        losses.append(own.mean(axis=1))
        if mover is None or number >= num_events:
            continue
        step = (number + 1) * recipe.every
        host, moved = ensemble.on_host(), []
        for i, seed in enumerate(seeds):
            params, state, seen = jax.tree.map(
                lambda leaf, i=i: leaf[i], (host.params, host.state, host.seen)
            )
            member = Member(recipe, seed, number, step, params, seen, host.specs[i], data, 1)
            wish = mover(member)
            found, padded = _moved(
                member, state, wish, budgets[i], max_loss_increase, share, num_measured
            )
            moved.append((*padded, host.specs[i] if found is None else found.network.spec))
            logs[i].append(_log(wish, found, member))
        ensemble = Ensemble(
            stacked([params for params, _, _ in moved]),
            stacked([state for _, state, _ in moved]),
            ensemble.seen,
            tuple(spec for _, _, spec in moved),
        )
    right = np.asarray(accuracies(ensemble.params, data))
    ends = [_sizes(recipe, widths) for widths in ensemble.widths]
    return [
        {
            "seed": seed,
            "accuracy": float(right[i]),
            "losses": [round(float(own[i]), 5) for own in losses],
            "widths": list(ends[i][1:-1]),
            "num_parameters": costs.num_parameters(ends[i]),
            "flops": float(flops[i]),
            "moves": logs[i],
        }
        for i, seed in enumerate(seeds)
    ]


def _moved(
    member: Member,
    state: Any,
    wish: Wish,
    budget: int,
    max_loss_increase: float,
    share: float,
    num_measured: int,
) -> tuple[Reallocated | None, tuple[Any, Any]]:
    """Off the padding, the move, and back; nothing where there is no wish."""
    recipe = member.recipe
    if wish.receiver is None:
        return None, (member.params, state)
    known = {"optimizer": recipe.optimizer_on_host, "kinds": recipe.kinds}
    narrow = unpad(member.params, recipe.spec, member.spec, optimizer_state=state, **known)
    images, labels = batch_of(member.seed, member.step, num_measured, member.data)
    found = reallocate(
        narrow,
        wish.receiver,
        wish.donors,
        budget=budget,
        batch=(images, labels),
        optimizer=recipe.optimizer_on_host,
        kinds=recipe.kinds,
        key=jax.random.fold_in(jax.random.key(member.seed), member.event),
        share=share,
        max_units=recipe.padded[1 + member.groups.index(wish.receiver)],
        max_loss_increase=max_loss_increase,
    )
    if not found.given:
        return found, (member.params, state)
    back = repad(found.network, recipe.spec, state, **known)
    return found, (back.params, back.optimizer_state)


def _log(wish: Wish, found: Reallocated | None, member: Member) -> dict[str, Any]:
    spec = member.spec if found is None else found.network.spec
    return {
        "receiver": wish.receiver,
        "given": {} if found is None else found.given,
        "taken": {} if found is None else found.taken,
        "loss_change": 0.0 if found is None else found.loss_change,
        "widths": [spec.group(name).size for name in member.groups],
    }


def _sizes(recipe: Recipe, widths: Mapping[str, int]) -> tuple[int, ...]:
    return (recipe.padded[0], *widths.values(), recipe.padded[-1])
