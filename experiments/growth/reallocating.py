"""The command: at a constant number of parameters, units move from where they are not needed."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import runs
from experiments.errors import UsageError
from experiments.growth import costs, moving, reallocating_figure, reallocating_summary
from experiments.growth.allocation import HEAD_FREE
from experiments.growth.arms import CRITERIA, mode_of
from experiments.growth.free_head import SUFFIX
from experiments.growth.programs import Recipe, Sizes
from experiments.growth.starts import flat, start_of
from experiments.mlp import init
from experiments.pieces import resumed

# Other names of arms that are run, and uniform growth, which has no donors.
LEFT_OUT = ("cut, energy", "cut, jacobian_rank", "uniform", "gradmax per parameter")
MOVERS = (*(arm for arm in CRITERIA if arm not in LEFT_OUT), *HEAD_FREE)
SCRATCH = "uniform, from scratch"
NUM_TUNING_SEEDS = 3
# What is written of a move; all of it is in the run folder.
_KEPT = ("receiver", "widths", "loss_change")


@dataclasses.dataclass(frozen=True)
class GrowReallocateExperiment:
    """Move units between the groups of networks whose widths are badly, or well, distributed."""

    starts: tuple[str, ...] = ("mnist, 48-48-4-48", "mnist, 44-44-44-44")
    """Networks to start from: data set, hidden units."""
    arms: tuple[str, ...] = (*MOVERS, SCRATCH)
    """Who says where units go."""
    seeds: int = 6
    """Networks of each arm."""
    steps: int = 1000
    """Training steps."""
    every: int = 100
    """Steps from one diagnosis, and move, to the next."""
    num_events: int = 5
    """Moves."""
    share: float = 0.5
    """Units that a group gets at a move, as a share of its own, if the donors can pay for them."""
    max_loss_increase: float = 0.02
    """What condensing the donors may cost at a move, nats on 512 training images."""
    widest: tuple[int, int] = (56, 80)
    """Most units of the first hidden layer, and of the others."""
    rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3)
    """Learning rates of Adam; the best without moves, on other seeds, serves all arms."""
    num_train: int = 10_000
    """Training images."""
    json: Path | None = None
    """Where to write the results, if anywhere."""
    plot: Path | None = None
    """Where to draw them as a PNG, if anywhere."""
    run_dir: Path = Path("runs/grow_reallocate")
    """Outcomes of each arm; resumed where it was left."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        if self.seeds < 2:
            raise UsageError(f"seeds must be at least 2, for an interval; got {self.seeds}")
        unknown = [arm for arm in self.arms if arm not in (*MOVERS, SCRATCH)]
        if unknown:
            raise UsageError(f"arms are of {', '.join((*MOVERS, SCRATCH))}; got {unknown[0]!r}")
        if self.num_events * self.every > self.steps:
            raise UsageError(
                f"{self.num_events} moves every {self.every} steps take more than {self.steps} "
                "steps"
            )
        for name in self.starts:
            first, *others = start_of(name).hidden
            if first > self.widest[0] or max(others) > self.widest[1]:
                raise UsageError(f"{name!r} is wider than widest allows, {self.widest}")

    def run(self) -> None:
        """Do what is left to do in the run folder, then print, write and draw the results."""
        config = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("arms", "json", "plot", "run_dir", "overwrite")
        }
        config = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in config.items()
        }
        runs.open_run(self.run_dir, config, overwrite=self.overwrite)
        rates = resumed(
            self.run_dir / "rates.jsonl",
            [(name,) for name in self.starts],
            self._tuned,
            names=("start",),
        )
        best = {record["start"]: record["best"] for record in rates}
        records = resumed(
            self.run_dir / "moved.jsonl",
            [(name, arm) for name in self.starts for arm in self._arms(name)],
            lambda name, arm: self._moved(name, arm, best[name], range(self.seeds)),
            names=("start", "arm"),
        )
        rows = reallocating_summary.compare(records)
        print(reallocating_summary.text(rows))
        for record in records:
            for one in record["networks"]:
                del one["losses"]
                one["moves"] = [{name: move[name] for name in _KEPT} for move in one["moves"]]
        found = {"config": config, "rates": rates, "rows": rows, "moved": records}
        if self.json:
            runs.write_json(self.json, found)
        if self.plot:
            reallocating_figure.reallocations(found, self.plot)

    def _arms(self, name: str) -> list[str]:
        # Equal widths are the control: they are the uniform network themselves.
        is_control = len(set(start_of(name).hidden)) == 1
        return [arm for arm in self.arms if not (is_control and arm in (SCRATCH, *HEAD_FREE))]

    def _moved(self, name: str, arm: str, rate: float, seeds: range) -> dict[str, Any]:
        start = start_of(name)
        data = flat(start.dataset, self.num_train)
        num_inputs = data.train.shape[1]
        first, others = self.widest
        padded = (num_inputs, first, *[others] * (len(start.hidden) - 1), 10)
        recipe = Recipe(
            padded, mode_of(arm.removesuffix(SUFFIX)), every=self.every, learning_rate=rate
        )
        sizes = (num_inputs, *start.hidden, 10)
        if arm == SCRATCH:
            sizes = uniform_of_size(sizes)
        networks = moving.run(
            recipe,
            {seed: init(jax.random.key(seed), sizes) for seed in seeds},
            data,
            None if arm == SCRATCH else moving.mover_of(arm),
            steps=self.steps,
            num_events=self.num_events,
            max_loss_increase=self.max_loss_increase,
            share=self.share,
        )
        return {"networks": networks}

    def _tuned(self, name: str) -> dict[str, Any]:
        """The best learning rate without moves."""
        seeds = range(1000, 1000 + NUM_TUNING_SEEDS)
        found = {}
        for rate in self.rates:
            networks = self._moved(name, "nowhere", rate, seeds)["networks"]
            found[rate] = float(np.mean([own["accuracy"] for own in networks]))
        return {
            "best": max(found, key=lambda rate: found[rate]),
            "accuracies": {str(rate): value for rate, value in found.items()},
        }


def uniform_of_size(sizes: Sizes) -> Sizes:
    """Equal widths with at most as many parameters.

    Args:
        sizes: inputs, hidden units of each layer, outputs.

    Returns:
        The sizes with the hidden units as wide as they can be.

    Example:
        >>> uniform_of_size((784, 48, 48, 4, 48, 10))
        (784, 44, 44, 44, 44, 10)
    """
    budget = costs.num_parameters(sizes)
    first, *hidden, last = sizes
    widths = range(1, max(hidden) + 1)
    fitting = [
        own for own in widths if costs.num_parameters((first, *[own] * len(hidden), last)) <= budget
    ]
    return (first, *[max(fitting)] * len(hidden), last)
