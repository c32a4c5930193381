"""The command: choose learning rates, then train every arm; one line on disk for each network."""

import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from experiments import runs
from experiments.data import DatasetName, load
from experiments.errors import UsageError
from experiments.growth import hourglass_figure, hourglass_tables
from experiments.growth import hourglass_network as network
from experiments.growth.hourglass_arms import (
    ARMS,
    REFERENCE,
    WAIST,
    Family,
    Record,
    narrowest_filled,
    same_course,
    train,
)
from experiments.growth.hourglass_training import Harness, Setting, pictures
from experiments.pieces import resumed
from pfn_optax.capacity import CAPACITIES

RATES = (0.001, 0.002, 0.004, 0.008)
TUNING_SEEDS = (100, 101)
TUNED_BY: dict[Family, tuple[str, ...]] = {
    "plain": ("nowhere",),
    "amplified": ("PFN: default", "PFN: rank"),
    "grown": ("uniform", "narrowest"),
    "scratch": ("from scratch, equal steps",),
}
"""The arms whose mean accuracy chooses the learning rate of a family."""


@dataclasses.dataclass(frozen=True)
class GrowHourglassExperiment:
    """Grow a convolutional hourglass where the cut is, and where others would."""

    dataset: DatasetName = "cifar10"
    """digits comes with scikit-learn; the others are read from $TFDS_DATA_DIR."""
    num_train: int = 20_000
    """Pictures to train on."""
    num_test: int = 10_000
    """Pictures to test on."""
    seeds: int = 6
    """A seed sets parameters, batches and fresh units, in all arms."""
    steps: int = 800
    """Steps of Adam."""
    every: int = 40
    """Steps between events; at each, one unit of one group."""
    events: int = 12
    """Number of events."""
    batch_size: int = 32
    """Pictures in a batch."""
    width: int = 12
    """Channels of the convolutions at the start; they may grow to twice as many."""
    waist: int = 1
    """Channels of the waist at the start."""
    norm: bool = False
    """Batch norms after the convolutions, with the statistics of the batch, in tests too."""
    arms: tuple[str, ...] = tuple(ARMS)
    """Which arms."""
    rates: tuple[float, ...] = RATES
    """Learning rates to choose from, on other seeds."""
    json: Path | None = None
    """Where to write the comparison, if anywhere."""
    plot: Path | None = None
    """Where to draw it as a PNG, if anywhere."""
    run_dir: Path = Path("runs/grow_hourglass")
    """Outcomes of each network; resumed where it was left."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        for name in ("seeds", "steps", "every", "events", "batch_size", "width", "waist"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.every * self.events >= self.steps:
            raise UsageError(
                f"events must leave steps to train in: {self.events} events every {self.every} "
                f"steps do not fit in {self.steps} steps."
            )
        for name in self.arms:
            if name not in ARMS:
                raise UsageError(f"arms must be among {', '.join(ARMS)}; got {name!r}")
        needy = [name for name in self.arms if ARMS[name].scratch or "as many" in name]
        if needy and REFERENCE not in self.arms:
            raise UsageError(f"{needy[0]!r} needs the arm {REFERENCE!r}")
        if not self.rates:
            raise UsageError("rates must be one or more; got none")

    @property
    def config(self) -> dict[str, Any]:
        """What determines the results."""
        skipped = ("json", "plot", "run_dir", "overwrite")
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        lists = {key: list(own[key]) for key in ("arms", "rates")}
        return {key: own[key] for key in own if key not in skipped} | lists

    def run(self) -> None:
        """Train the networks that are left, then print, write and draw the comparison."""
        runs.open_run(self.run_dir, self.config, overwrite=self.overwrite)
        rates = self._tune()
        records: dict[tuple[str, int], Record] = {}

        def measure(name: str, seed: int) -> Record:
            return self._train(name, seed, rates[ARMS[name].family], records)

        # Those that others are compared with come first.
        order = sorted(self.arms, key=lambda name: name != REFERENCE)
        for name in order:
            pieces = [(name, seed) for seed in range(self.seeds)]
            file = self.run_dir / "networks.jsonl"
            for record in resumed(file, pieces, measure, names=("arm", "seed")):
                records[record["arm"], record["seed"]] = record
        rows = hourglass_tables.summarise(
            {name: [records[name, seed] for seed in range(self.seeds)] for name in self.arms}
        )
        print(hourglass_tables.text(rows), hourglass_tables.named_text(rows), sep="\n\n")
        if self.json:
            found = {"config": self.config, "rates": rates, "waist": WAIST, "arms": rows}
            runs.write_json(self.json, found)
        if self.plot:
            hourglass_figure.accuracies(rows, self.plot)

    def _tune(self) -> dict[Family, float]:
        """The learning rate of each family with the best mean accuracy on other seeds."""
        present = {ARMS[name].family for name in self.arms}
        families: list[Family] = [family for family in TUNED_BY if family in present]
        pieces = [
            (family, name, rate, seed)
            for family in families
            if len(self.rates) > 1
            for name, rate, seed in itertools.product(TUNED_BY[family], self.rates, TUNING_SEEDS)
        ]
        filled = narrowest_filled(self._widths, self.events)

        def measure(family: Family, name: str, rate: float, seed: int) -> Record:
            start = filled if family == "scratch" else None
            options = {"steps": self.steps, "events": self.events, "start": start}
            return train(self._harness, ARMS[name], seed=seed, rate=rate, **options)

        names = ("family", "arm", "rate", "seed")
        records = resumed(self.run_dir / "tuning.jsonl", pieces, measure, names=names)
        chosen: dict[Family, float] = {}
        for family in families:
            by_rate = {
                rate: np.mean(
                    [r["accuracy"] for r in records if (r["family"], r["rate"]) == (family, rate)]
                    or [0.0]
                )
                for rate in self.rates
            }
            chosen[family] = max(by_rate, key=lambda rate: by_rate[rate])
        return chosen

    def _train(
        self, name: str, seed: int, rate: float, records: dict[tuple[str, int], Record]
    ) -> Record:
        """An arm from a seed; what another cut has grown already, group by group, is not redone."""
        arm = ARMS[name]
        cuts = (records.get((f"cut: {capacity}", seed)) for capacity in CAPACITIES)
        if name.startswith("cut: ") and arm.how == "fresh":
            for other in cuts:
                if other and same_course(other, name.removeprefix("cut: ")):
                    return {key: other[key] for key in other if key not in ("arm", "seed")}
        options: dict[str, Any] = {"steps": self.steps, "events": self.events}
        reference = records.get((REFERENCE, seed))
        if reference:
            final = reference["widths"][-1]
            options["budget"] = reference["added"]
            if arm.scratch:
                options["start"] = final
            if arm.scratch == "FLOPs":
                options["steps"] = reference["flops"] // self._harness.flops(final)
        return {"rate": rate} | train(self._harness, arm, seed=seed, rate=rate, **options)

    @property
    def _widths(self) -> tuple[int, ...]:
        return tuple(
            self.waist if number == network.WAIST else self.width
            for number in range(len(network.CONVS))
        )

    @property
    def _harness(self) -> Harness:
        setting = Setting(
            widths=self._widths,
            padded=(2 * self.width,) * len(self._widths),
            norm=self.norm,
            batch_size=self.batch_size,
            every=self.every,
        )
        return harness(setting, self.dataset, self.num_train, self.num_test)


@functools.lru_cache(maxsize=1)
def harness(setting: Setting, dataset: DatasetName, num_train: int, num_test: int) -> Harness:
    """The program for a setting on the first pictures of a data set, kept until another is due."""
    return Harness(setting, pictures(load(dataset), num_train=num_train, num_test=num_test))
