"""A run of an arm: training, and every so many steps units for the group that it names."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from experiments.growth import costs
from experiments.growth.arms import CRITERIA, Criterion, Member
from experiments.growth.images import Images
from experiments.growth.programs import (
    Ensemble,
    Recipe,
    Sizes,
    accuracies,
    groups_of,
    stacked,
    started,
    train,
)
from experiments.mlp import Params
from pfn_optax.growth import grow_padded

How = Literal["split", "fresh", "initialised"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """When and by how much networks grow.

    Attributes:
        steps: of training in all, a multiple of the recipe's `every`.
        num_events: times that they grow, from the first diagnosis on, one at each.
        how: by split or fresh units, as of `grow`; or by fresh ones whose weights and biases are
            those of a network that is initialised anew, not made to be like the group's others.
        num_units: units of one group at each event.
        num_parameters: instead, parameters that each event may spend, with what the events before
            it have left over: as many units of one group as they pay for.
        max_parameters: of the whole network, at any time.
    """

    steps: int
    num_events: int
    how: How = "fresh"
    num_units: int = 1
    num_parameters: int | None = None
    max_parameters: int | None = None

    def affordable(self, start: Sizes, now: Sizes, event: int, layer: int) -> int:
        """Units of a hidden layer that an event adds, 0 where there is no budget.

        Args:
            start: sizes before the first event.
            now: sizes before this one.
            event: number of the event, from 0.
            layer: number of the hidden layer, from 1.
        """
        number = self.num_units
        if self.num_parameters is not None:
            budget = costs.num_parameters(start) + (event + 1) * self.num_parameters
            number = costs.num_affordable(now, layer, budget)
        if self.max_parameters is not None:
            number = min(number, costs.num_affordable(now, layer, self.max_parameters))
        return number


@dataclasses.dataclass
class Outcome:
    """What became of one network.

    Attributes:
        seed: its seed.
        accuracy: share of the test images told right.
        losses: mean training loss in nats between two diagnoses.
        grown: group that grew at each event, None where none did.
        named: groups that the arm named at each event, the most wanted first.
        units: units added at each event.
        widths: active units of each hidden layer at the end.
        num_parameters: at the end.
        added_parameters: of them, how many were added.
        flops: of training.
    """

    seed: int
    accuracy: float
    losses: list[float]
    grown: list[str | None]
    named: list[list[str]]
    units: list[int]
    widths: list[int]
    num_parameters: int
    added_parameters: int
    flops: int


def run(
    arm: str,
    recipe: Recipe,
    plan: Plan,
    networks: Mapping[int, Params],
    data: Images,
    *,
    criteria: Mapping[str, Criterion] = CRITERIA,
) -> list[Outcome]:
    """Trains networks together and grows each where the arm says.

    Args:
        arm: name of the criterion.
        recipe: how to train and watch; `arms.mode_of(arm)` is what an arm has to watch by.
        plan: when to grow.
        networks: initial parameters by seed, which also sets the batches and what is drawn.
        data: the images.
        criteria: by name.

    Returns:
        What became of each network. The losses at a growth event are the same before and after.
    """
    seeds = list(networks)
    ensemble = started(recipe, list(networks.values()))
    starts = _sizes(recipe, ensemble)
    history: list[list[Sizes]] = []
    losses, grown, named, units = [], [], [], []
    for number in range(plan.steps // recipe.every):
        history.append(_sizes(recipe, ensemble))
        step = number * recipe.every
        ensemble, own = train(recipe, ensemble, seeds, step, recipe.every, data)
        losses.append(own.mean(axis=1))
        if number < plan.num_events and arm != "nowhere":
            additions, names = [], []
            for member in _members(recipe, plan, ensemble.on_host(), seeds, number, data):
                names.append(list(criteria[arm](member)))
                start = starts[seeds.index(member.seed)]
                additions.append(_addition(plan, start, member, names[-1]))
            ensemble = grown_by(recipe, ensemble, additions, plan.how, seeds, number)
            named.append(names)
            grown.append([next(iter(own), None) for own in additions])
            units.append([sum(own.values()) for own in additions])
    right, ends = np.asarray(accuracies(ensemble.params, data)), _sizes(recipe, ensemble)
    return [
        Outcome(
            seed=seed,
            accuracy=float(right[i]),
            losses=[round(float(own[i]), 5) for own in losses],
            grown=[own[i] for own in grown],
            named=[own[i] for own in named],
            units=[own[i] for own in units],
            widths=list(ends[i][1:-1]),
            num_parameters=costs.num_parameters(ends[i]),
            added_parameters=costs.num_parameters(ends[i]) - costs.num_parameters(starts[i]),
            flops=costs.training_flops(
                ((recipe.every, own[i]) for own in history), recipe.batch_size
            ),
        )
        for i, seed in enumerate(seeds)
    ]


def grown_by(
    recipe: Recipe,
    ensemble: Ensemble,
    additions: Sequence[Mapping[str, int]],
    how: How,
    seeds: Sequence[int],
    event: int,
) -> Ensemble:
    """Adds units to networks of an ensemble; what each computes stays.

    Args:
        recipe: how they are trained.
        ensemble: the networks.
        additions: units to add by group, for each network.
        how: as for `grow`.
        seeds: of what is drawn, with the number of the event.
        event: that number.

    Returns:
        The wider ensemble, of the same padded size.
    """
    host, members = ensemble.on_host(), []
    for i, (seed, addition) in enumerate(zip(seeds, additions, strict=True)):
        params, state = jax.tree.map(lambda leaf, i=i: leaf[i], (host.params, host.state))
        spec = host.specs[i]
        if addition:
            key = jax.random.fold_in(jax.random.key(seed), event)
            options: dict[str, Any] = {"how": how}
            if how == "initialised":
                first, *_, last = recipe.padded
                inner = (own.size + addition.get(own.name, 0) for own in spec.groups)
                draw = np.random.default_rng([seed, event])
                options = {"how": "fresh", "init": _initial(draw, (first, *inner, last))}
            wide = grow_padded(
                params,
                recipe.spec,
                spec,
                dict(addition),
                optimizer=recipe.optimizer_on_host,
                optimizer_state=state,
                kinds=recipe.kinds,
                key=key,
                **options,
            )
            params, spec, state = wide.params, wide.spec, wide.optimizer_state
        members.append((params, state, spec))
    if not any(additions):
        return ensemble
    return Ensemble(
        stacked([params for params, _, _ in members]),
        stacked([state for _, state, _ in members]),
        ensemble.seen,
        tuple(spec for _, _, spec in members),
    )


def _initial(draw: np.random.Generator, sizes: Sizes) -> Any:
    """As `mlp.init`, on the host: no program for each of many sizes."""
    return {
        f"Dense_{number}": {
            "kernel": draw.normal(0, (2 / own) ** 0.5, (own, to)).astype(np.float32),
            "bias": np.zeros(to, np.float32),
        }
        for number, (own, to) in enumerate(itertools.pairwise(sizes))
    }


def _members(
    recipe: Recipe, plan: Plan, host: Ensemble, seeds: Sequence[int], event: int, data: Images
) -> list[Member]:
    return [
        Member(
            recipe=recipe,
            seed=seed,
            event=event,
            step=(event + 1) * recipe.every,
            params=jax.tree.map(lambda leaf, i=i: leaf[i], host.params),
            seen=jax.tree.map(lambda leaf, i=i: leaf[i], host.seen),
            spec=host.specs[i],
            data=data,
            num_units=plan.num_units,
        )
        for i, seed in enumerate(seeds)
    ]


def _addition(plan: Plan, start: Sizes, member: Member, wanted: Sequence[str]) -> dict[str, int]:
    """Units for the first group in turn that there is room and budget for."""
    for name in wanted:
        layer = 1 + member.groups.index(name)
        room = member.recipe.padded[layer] - member.sizes[layer]
        number = min(plan.affordable(start, member.sizes, member.event, layer), room)
        if number > 0:
            return {name: number}
    return {}


def _sizes(recipe: Recipe, ensemble: Ensemble) -> list[Sizes]:
    first, *_, last = recipe.padded
    return [
        (first, *(own[name] for name in groups_of(recipe.padded)), last) for own in ensemble.widths
    ]


def as_record(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """A line of JSON of what became of the networks of an arm."""
    return {"networks": [dataclasses.asdict(outcome) for outcome in outcomes]}
