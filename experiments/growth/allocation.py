"""The command: from a tiny network to a budget of parameters; where do the units go?"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import runs
from experiments.errors import UsageError
from experiments.growth import allocation_figure, allocation_summary, costs
from experiments.growth.arms import CRITERIA, Criterion, Member, mode_of
from experiments.growth.free_head import SUFFIX, cut_below_head
from experiments.growth.growing import Plan, as_record, run
from experiments.growth.images import Images
from experiments.growth.programs import Recipe, Sizes
from experiments.growth.scratch import from_scratch
from experiments.growth.starts import flat, start_of
from experiments.mlp import init
from experiments.pieces import resumed

# Of a dense network with one block per layer these are other names of the arms that are run.
SAME = {"cut, energy": "cut, norm", "cut, jacobian_rank": "cut, effective_rank"}
HEAD_FREE = tuple(
    f"cut, {mode}{SUFFIX}" for mode in ("rank", "norm", "sensitivity", "effective_rank")
)
ARMS = (*(arm for arm in CRITERIA if arm not in SAME), *HEAD_FREE)
NUM_TUNING_SEEDS = 3
# What is written of a network; all of it is in the run folder.
_KEPT = ("seed", "accuracy", "grown", "widths", "num_parameters", "flops")


# What is left out on CIFAR-10: from equal widths the narrowest first is uniform scaling.
LEFT_OUT = ("nowhere", "narrowest", "cut, rank", "cut, global_rank", f"cut, rank{SUFFIX}")


@dataclasses.dataclass(frozen=True)
class Spending(Plan):
    """A plan by which a group grows by at most a share of its units at a time.

    A unit of a late layer costs a hundredth of one of the first: a whole event's parameters would
    buy dozens for a single diagnosis.

    Attributes:
        most_share: the share.
    """

    most_share: float = 0.5

    def affordable(self, start: Sizes, now: Sizes, event: int, layer: int) -> int:
        """As for `Plan`, but not above the share.

        Args:
            start: sizes before the first event.
            now: sizes before this one.
            event: number of the event, from 0.
            layer: number of the hidden layer, from 1.

        Returns:
            The number of units.
        """
        most = max(int(self.most_share * now[layer]), 1)
        return min(super().affordable(start, now, event, layer), most)


def in_proportion(hidden: tuple[int, ...], member: Member) -> list[str]:
    """Uniform scaling: first the group that has grown least, as a share of what it started with."""
    ratios = dict(zip(member.groups, np.divide(member.sizes[1:-1], hidden), strict=True))
    return sorted(member.groups, key=lambda name: ratios[name])


def criterion_of(arm: str, hidden: tuple[int, ...]) -> Criterion:
    """What an arm wants to grow; a cut goes on as uniform scaling where its group has no room.

    Args:
        arm: of `ARMS`.
        hidden: hidden units at the start.

    Returns:
        The criterion.
    """
    if arm == "uniform":
        return functools.partial(in_proportion, hidden)
    if not arm.startswith("cut, "):
        return CRITERIA[arm]
    own = (
        functools.partial(cut_below_head, mode_of(arm.removesuffix(SUFFIX)))
        if arm.endswith(SUFFIX)
        else CRITERIA[arm]
    )
    return lambda member: [*own(member), *in_proportion(hidden, member)]


@dataclasses.dataclass(frozen=True)
class GrowAllocationExperiment:
    """Grow tiny networks to a budget of parameters: by the cut, uniformly, by GradMax, or else."""

    starts: tuple[str, ...] = ("mnist, 8-8-8-8", "mnist, 4-12-4-12", "cifar10, 8-8-8-8")
    """Networks to start from: data set, hidden units."""
    arms: tuple[str, ...] = ARMS
    """Who says what grows; on CIFAR-10 some are left out."""
    scratch: tuple[str, ...] = ("mnist, 8-8-8-8",)
    """Starts on which the widths at the end are trained from the start, too, those of all arms."""
    seeds: int = 6
    """Networks of each arm."""
    steps: int = 1000
    """Training steps."""
    every: int = 40
    """Steps from one diagnosis, and growth event, to the next."""
    factor: float = 4.0
    """Budget, as a multiple of the parameters at the start."""
    num_events: int = 20
    """Growth events; the budget is given out over the first four fifths of them."""
    widest: tuple[int, int] = (32, 64)
    """Most units of the first hidden layer, and of the others."""
    rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3)
    """Learning rates of Adam; the best for uniform scaling, on other seeds, serves all arms."""
    num_train: int = 10_000
    """Training images."""
    json: Path | None = None
    """Where to write the results, if anywhere."""
    plot: Path | None = None
    """Where to draw them as a PNG, if anywhere."""
    run_dir: Path = Path("runs/grow_allocation")
    """Outcomes of each arm; resumed where it was left."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        if self.seeds < 2:
            raise UsageError(f"seeds must be at least 2, for an interval; got {self.seeds}")
        unknown = [arm for arm in self.arms if arm not in ARMS]
        if unknown:
            raise UsageError(f"arms are of {', '.join(ARMS)}; got {unknown[0]!r}")
        if self.factor <= 1:
            raise UsageError(f"factor must be above 1; got {self.factor}")
        if self.num_events * self.every > self.steps:
            raise UsageError(
                f"{self.num_events} events every {self.every} steps take more than {self.steps} "
                "steps"
            )
        for name in self.starts:
            start_of(name)

    def run(self) -> None:
        """Do what is left to do in the run folder, then print, write and draw the results."""
        config = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("arms", "scratch", "json", "plot", "run_dir", "overwrite")
        }
        config = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in config.items()
        }
        runs.open_run(self.run_dir, config, overwrite=self.overwrite)
        pieces = [(name, "rate") for name in self.starts]
        rates = resumed(self.run_dir / "rates.jsonl", pieces, self._tuned, names=("start", "what"))
        best = {record["start"]: record["best"] for record in rates}
        pieces = [(name, arm) for name in self.starts for arm in self._arms(name)]
        grown = resumed(
            self.run_dir / "grown.jsonl",
            pieces,
            lambda name, arm: self._grown(name, arm, best[name], range(self.seeds)),
            names=("start", "arm"),
        )
        by_arm = {(record["start"], record["arm"]): record["networks"] for record in grown}

        def scratch(name: str, arm: str) -> dict[str, Any]:
            data, recipe, _ = self._setting(name, best[name])
            networks = by_arm[name, arm]
            sizes = {own["seed"]: (recipe.padded[0], *own["widths"], 10) for own in networks}
            flops = [own["flops"] for own in networks]
            return {"networks": from_scratch(recipe, self.steps, sizes, flops, data)}

        fresh = resumed(
            self.run_dir / "scratch.jsonl",
            [piece for piece in pieces if piece[0] in self.scratch and piece[1] != "nowhere"],
            scratch,
            names=("start", "arm"),
        )
        rows = allocation_summary.compare(grown, fresh)
        print(allocation_summary.text(rows))
        for record in grown:
            record["networks"] = [
                {name: one[name] for name in _KEPT if name in one} for one in record["networks"]
            ]
        found = {"config": config, "rates": rates, "rows": rows, "grown": grown, "scratch": fresh}
        if self.json:
            runs.write_json(self.json, found)
        if self.plot:
            allocation_figure.allocations(found, self.plot)

    def _arms(self, name: str) -> tuple[str, ...]:
        is_short = start_of(name).dataset == "cifar10"
        return tuple(arm for arm in self.arms if not (is_short and arm in LEFT_OUT))

    def _setting(
        self, name: str, rate: float, arm: str = "uniform"
    ) -> tuple[Images, Recipe, Sizes]:
        """The data, how to train, and the sizes at the start."""
        start = start_of(name)
        data = flat(start.dataset, self.num_train)
        num_inputs = data.train.shape[1]
        first, others = self.widest
        padded = (num_inputs, first, *[others] * (len(start.hidden) - 1), 10)
        recipe = Recipe(
            padded, mode_of(arm.removesuffix(SUFFIX)), every=self.every, learning_rate=rate
        )
        return data, recipe, (num_inputs, *start.hidden, 10)

    def _grown(self, name: str, arm: str, rate: float, seeds: range) -> dict[str, Any]:
        data, recipe, sizes = self._setting(name, rate, arm)
        count = costs.num_parameters(sizes)
        budget = int(self.factor * count)
        plan = Spending(
            steps=self.steps,
            num_events=self.num_events,
            num_parameters=-(-(budget - count) * 5 // (4 * self.num_events)),
            max_parameters=budget,
        )
        networks = {seed: init(jax.random.key(seed), sizes) for seed in seeds}
        hidden = start_of(name).hidden
        criteria = {arm: criterion_of(arm, hidden)}
        return as_record(run(arm, recipe, plan, networks, data, criteria=criteria))

    def _tuned(self, name: str, what: str) -> dict[str, Any]:
        """The best learning rate for uniform scaling."""
        del what
        seeds = range(1000, 1000 + NUM_TUNING_SEEDS)
        found = {
            rate: float(
                np.mean(
                    [
                        own["accuracy"]
                        for own in self._grown(name, "uniform", rate, seeds)["networks"]
                    ]
                )
            )
            for rate in self.rates
        }
        return {
            "best": max(found, key=lambda rate: found[rate]),
            "accuracies": {str(rate): value for rate, value in found.items()},
        }
