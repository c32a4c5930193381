"""The arms: where each of them would grow a network, the most wanted group first."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.growth.costs import unit_cost
from experiments.growth.gradmax import gradmax_scores
from experiments.growth.images import Images
from experiments.growth.observers import MODES, options_of
from experiments.growth.programs import Recipe, Sizes, batch_of, groups_of
from experiments.mlp import Params
from pfn_optax.growth import rank_groups
from pfn_optax.state import PFNState
from pfn_optax.units import UnitSpec


class Member(NamedTuple):
    """A network of an ensemble at an event.

    Attributes:
        recipe: how it is trained.
        seed: its seed.
        event: number of the event.
        step: steps of training done.
        params: its padded parameters.
        seen: what PFN has seen of it.
        spec: its active units.
        data: the images.
        num_units: units that the event adds, at least.
    """

    recipe: Recipe
    seed: int
    event: int
    step: int
    params: Params
    seen: PFNState
    spec: UnitSpec
    data: Images
    num_units: int

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups, from the data to the outputs."""
        return groups_of(self.recipe.padded)

    @property
    def sizes(self) -> Sizes:
        """Inputs, active units of each group, outputs."""
        first, *_, last = self.recipe.padded
        return (first, *(self.spec.group(name).size for name in self.groups), last)


Criterion = Callable[[Member], Sequence[str]]
"""From a network to groups to grow, the most wanted first; none where it has nothing to say."""


def nowhere(member: Member) -> Sequence[str]:
    """No group."""
    del member
    return ()


def random(member: Member) -> Sequence[str]:
    """The groups in random order."""
    return list(np.random.default_rng([member.seed, member.event]).permutation(member.groups))


def uniform(member: Member) -> Sequence[str]:
    """The groups in turn, from the data to the outputs."""
    start = member.event % len(member.groups)
    return member.groups[start:] + member.groups[:start]


def narrowest(member: Member) -> Sequence[str]:
    """The narrowest group first."""
    return sorted(member.groups, key=lambda name: member.spec.group(name).size)


def cut(mode: str, member: Member) -> Sequence[str]:
    """The groups at the minimum cut, by depth and duration; the program must watch by the mode.

    Where the cut is at the head, which no units widen, the ones before it: every arm adds as much.
    """
    ranking = rank_groups(member.seen, member.params, member.spec, **options_of(mode))
    return [ranked.group for ranked in (*ranking.groups, *ranking.beside)]


def gradmax(member: Member) -> Sequence[str]:
    """GradMax: the largest gradient norm that new units could have."""
    scores = _gradmax_scores(member)
    return sorted(scores, key=lambda name: -scores[name])


def gradmax_per_parameter(member: Member) -> Sequence[str]:
    """GradMax, divided by the parameters that a unit adds."""
    scores, sizes = _gradmax_scores(member), member.sizes
    costs = {name: unit_cost(sizes, 1 + i) for i, name in enumerate(member.groups)}
    return sorted(scores, key=lambda name: -scores[name] / costs[name])


_GRADMAX_BATCH = 512


def _gradmax_scores(member: Member) -> dict[str, float]:
    batch = batch_of(member.seed, member.step, _GRADMAX_BATCH, member.data)
    found = _compiled_scores(member.num_units, member.params, batch)
    return {name: float(score) for name, score in found.items()}


@functools.partial(jax.jit, static_argnums=0)
def _compiled_scores(num_units: int, params: Params, batch: Any) -> dict[str, jax.Array]:
    return gradmax_scores(params, batch, num_units)


CRITERIA: Mapping[str, Criterion] = {
    "nowhere": nowhere,
    "random": random,
    "uniform": uniform,
    "narrowest": narrowest,
    **{f"cut, {mode}": functools.partial(cut, mode) for mode in MODES},
    "gradmax": gradmax,
    "gradmax per parameter": gradmax_per_parameter,
}


def mode_of(arm: str) -> str:
    """Capacity by which PFN has to watch for an arm; any will do where the arm asks nothing."""
    return arm.removeprefix("cut, ") if arm.startswith("cut, ") else "norm"
