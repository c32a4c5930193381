"""The arms: who grows at an event, what amplifies, and what is trained anew."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from experiments.growth import hourglass_network as network
from experiments.growth.hourglass_training import Harness, How, Run
from pfn_optax.capacity import CAPACITIES
from pfn_optax.growth import widths

Family = Literal["plain", "amplified", "grown", "scratch"]
Where = Callable[["Moment"], str | None]
Record = dict[str, Any]
REFERENCE = "cut: norm"
"""The arm whose final architecture is trained from scratch, and whose parameters others get."""
WAIST = f"Conv_{network.WAIST}"
BETA = 1.8


@dataclasses.dataclass(frozen=True)
class Moment:
    """What an arm may look at when it is asked which group is to grow.

    Attributes:
        number: of the event.
        seed: of the run.
        widths: channels by group, in order.
        named: the group that each capacity's cut asks for.
        room: parameters that may still be added, if the reference sets the number.
        cost: parameters that one more unit of a group adds.
    """

    number: int
    seed: int
    widths: Mapping[str, int]
    named: Mapping[str, str | None]
    room: int
    cost: Callable[[str], int]


@dataclasses.dataclass(frozen=True)
class Arm:
    """An arm.

    Attributes:
        family: arms that share a learning rate.
        where: the group to grow, from a `Moment`; None to leave it.
        how: the new units.
        amplification: beta of PFN by the default capacity and by ranks.
        scratch: whether the reference's final architecture is trained from the start, for as many
            steps or FLOPs.
    """

    family: Family = "grown"
    where: Where | None = None
    how: How = "fresh"
    amplification: tuple[float, float] = (0.0, 0.0)
    scratch: Literal["steps", "FLOPs"] | None = None


def _by_cut(capacity: str) -> Where:
    return lambda moment: moment.named[capacity]


def _in_turn(moment: Moment) -> str:
    return tuple(moment.widths)[moment.number % len(moment.widths)]


def _in_turn_within_budget(moment: Moment) -> str | None:
    group = _in_turn(moment)
    return group if moment.cost(group) <= moment.room else None


def _narrowest(moment: Moment) -> str:
    return min(moment.widths, key=lambda name: moment.widths[name])


def _random(moment: Moment) -> str:
    draw = np.random.default_rng([moment.seed, moment.number])
    return tuple(moment.widths)[draw.integers(len(moment.widths))]


ARMS: dict[str, Arm] = {
    "nowhere": Arm("plain"),
    "PFN: default": Arm("amplified", amplification=(BETA, 0.0)),
    "PFN: rank": Arm("amplified", amplification=(0.0, BETA)),
    "random": Arm(where=_random),
    "uniform": Arm(where=_in_turn),
    "narrowest": Arm(where=_narrowest),
    **{f"cut: {name}": Arm(where=_by_cut(name)) for name in CAPACITIES},
    "uniform, as many parameters": Arm(where=_in_turn_within_budget),
    "uniform, split": Arm(where=_in_turn, how="split"),
    f"{REFERENCE}, split": Arm(where=_by_cut("norm"), how="split"),
    "from scratch, equal steps": Arm("scratch", scratch="steps"),
    "from scratch, equal FLOPs": Arm("scratch", scratch="FLOPs"),
}


def narrowest_filled(own_widths: Sequence[int], num_units: int) -> tuple[int, ...]:
    """The widths after so many units, each for the narrowest group."""
    filled = list(own_widths)
    for _ in range(num_units):
        filled[filled.index(min(filled))] += 1
    return tuple(filled)


def same_course(record: Record, capacity: str) -> bool:
    """Whether the cut of a capacity named, all along a run, the group that was grown in it."""
    named = [found[capacity] for found in record["named"]]
    return None not in named and named == record["grown"]


def train(
    harness: Harness,
    arm: Arm,
    *,
    seed: int,
    rate: float,
    steps: int,
    events: int,
    start: Sequence[int] | None = None,
    budget: int = 0,
) -> Record:
    """Trains a network, and grows it at every event.

    Args:
        harness: the program.
        arm: what to do at events.
        seed: of the parameters, the batches, and the fresh units.
        rate: learning rate of Adam.
        steps: of training.
        events: number of them, one every so many steps.
        start: channels to start with; by default the setting's.
        budget: parameters that the reference added.

    Returns:
        Accuracy, losses, widths, what every capacity named at every event, parameters, FLOPs.
    """
    run = harness.start(seed, start)
    initial = harness.parameters(run.widths)
    losses, course, grown, named, flops, done = [], [run.widths], [], [], 0, 0
    while done < steps:
        until = min(done + harness.setting.every, steps)
        run, loss = harness.train(run, seed, range(done, until), rate, arm.amplification)
        losses.append(loss)
        flops += (until - done) * harness.flops(run.widths)
        done = until
        if len(grown) == events or done == steps:
            continue
        found = harness.named(run)
        cost = functools.partial(_cost, harness, run)
        room = initial + budget - harness.parameters(run.widths)
        moment = Moment(len(grown), seed, widths(run.spec), found, room, cost)
        group = arm.where(moment) if arm.where else None
        if group is not None and moment.widths[group] < widths(harness.padded_spec)[group]:
            run = harness.grow(run, group, 1, arm.how, seed=1000 * seed + len(grown))
        else:
            group = None
        named.append(found)
        grown.append(group)
        course.append(run.widths)
    size = harness.parameters(run.widths)
    return {
        "accuracy": harness.accuracy(run),
        "losses": losses,
        "widths": course,
        "grown": grown,
        "named": named,
        "steps": steps,
        "parameters": size,
        "added": size - initial,
        "flops": flops,
    }


def _cost(harness: Harness, run: Run, group: str) -> int:
    wider = {**widths(run.spec), group: widths(run.spec)[group] + 1}
    return harness.parameters(tuple(wider.values())) - harness.parameters(run.widths)
