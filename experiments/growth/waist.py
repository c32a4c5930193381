"""The command `grow-waist`: a deep network with a waist of one unit, grown where each arm says."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from experiments import runs
from experiments.data import DatasetName
from experiments.errors import UsageError
from experiments.growth import waist_figure, waist_summary
from experiments.growth.arms import CRITERIA, mode_of
from experiments.growth.growing import How, Plan, as_record, run
from experiments.growth.images import images
from experiments.growth.programs import Recipe, Sizes
from experiments.mlp import init
from experiments.pieces import resumed

AMPLIFIED = {"amplified, jacobian_rank": "jacobian_rank", "amplified, rank": "rank"}
SCRATCH = {
    f"from scratch, as {arm}": arm
    for arm in ("cut, norm", "cut, sensitivity", "cut, jacobian_rank")
}
_GROWN = tuple(arm for arm in CRITERIA if arm != "nowhere")
_AT_EQUAL_PARAMETERS = (
    "narrowest",
    "uniform",
    "gradmax per parameter",
    "random",
    "cut, norm",
    "cut, jacobian_rank",
)

PIECES: tuple[tuple[str, str], ...] = (
    ("none", "nowhere"),
    *(("fresh", arm) for arm in _GROWN),
    *(("split", arm) for arm in _GROWN),
    *(("none", arm) for arm in AMPLIFIED),
    *(("none", arm) for arm in SCRATCH),
    *(("equal parameters", arm) for arm in _AT_EQUAL_PARAMETERS),
)
"""What to do at each event, by which arm."""


@dataclasses.dataclass(frozen=True)
class GrowWaistExperiment:
    """Grow a deep network with a waist of one unit: everywhere, at random, or where the cut is."""

    seeds: int = 6
    """Networks of each arm; a seed sets the initial parameters and the batches."""
    steps: int = 2_500
    """Steps of Adam, a multiple of `every`."""
    every: int = 50
    """Steps from one event to the next."""
    events: int = 20
    """How often one unit is added, from the first event on."""
    sizes: tuple[int, ...] = (784, 64, 64, 16, 1, 16, 64, 64, 10)
    """Inputs, hidden units of each layer, outputs."""
    padded: tuple[int, ...] = (784, 84, 84, 48, 48, 48, 84, 84, 10)
    """The same with the most that each layer may reach."""
    parameters: int = 129
    """Parameters that each event may spend where the arms are compared at equal parameters."""
    learning_rate: float = 1e-3
    """Of Adam, in all arms."""
    batch_size: int = 32
    """Images in a batch."""
    dataset: DatasetName = "mnist"
    """Where the images are from."""
    train_images: int = 10_000
    """How many of them to train on."""
    data_dir: Path | None = None
    """TFDS data directory. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    json: Path | None = None
    """Where to write the numbers, if anywhere."""
    plot: Path | None = None
    """Where to draw them as a PNG, if anywhere."""
    run_dir: Path = Path("runs/grow-waist")
    """Outcomes of each arm; resumed where it was left."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        check_sizes(self.sizes, self.padded)
        check_times(self.seeds, self.steps, self.every, self.events)

    def run(self) -> None:
        """Train what is left to train in the run folder, then print, write and draw it."""
        config = config_of(self)
        runs.open_run(self.run_dir, config, overwrite=self.overwrite)
        file = self.run_dir / "arms.jsonl"
        records = resumed(file, PIECES, self._record, names=("how", "arm"))
        rows = waist_summary.summarise(records, self.sizes)
        print(waist_summary.text(rows))
        if self.json:
            runs.write_json(self.json, {"config": config, "rows": rows})
        if self.plot:
            waist_figure.draw(rows, self.every, self.plot)

    def _record(self, how: str, arm: str) -> dict[str, Any]:
        sizes = dict.fromkeys(range(self.seeds), self.sizes)
        padded, amplified_by = self.padded, AMPLIFIED.get(arm)
        if amplified_by is not None:
            padded = self.sizes
        if arm in SCRATCH:
            before = runs.read_lines(self.run_dir / "arms.jsonl")
            sizes = widths_in(before, self.sizes, how="fresh", arm=SCRATCH[arm])
        recipe = Recipe(
            padded,
            mode=mode_of(arm),
            every=self.every,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            amplified_by=amplified_by,
        )
        plan = Plan(steps=self.steps, num_events=self.events if how != "none" else 0)
        if how == "equal parameters":
            plan = dataclasses.replace(plan, num_parameters=self.parameters)
        elif how != "none":
            units: How = "split" if how == "split" else "fresh"
            plan = dataclasses.replace(plan, how=units)
        networks = {seed: init(jax.random.key(seed), own) for seed, own in sizes.items()}
        data = images(self.dataset, self.train_images, self.data_dir)
        return as_record(run(arm, recipe, plan, networks, data))


def config_of(command: Any) -> dict[str, Any]:
    """What determines the results of a command: its fields but for where they are put."""
    where = ("data_dir", "json", "plot", "run_dir", "overwrite")
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(command).items()
        if name not in where
    }


def widths_in(records: list[dict[str, Any]], start: Sizes, **piece: str) -> dict[int, Sizes]:
    """Sizes by seed with which the networks of an earlier piece ended."""
    (own,) = (
        record for record in records if all(record[name] == value for name, value in piece.items())
    )
    return {one["seed"]: (start[0], *one["widths"], start[-1]) for one in own["networks"]}


def check_sizes(sizes: Sizes, padded: Sizes) -> None:
    """Checks that networks fit into their padding.

    Raises:
        UsageError: if they do not.
    """
    is_padded = len(sizes) == len(padded) >= 3 and all(
        own <= most for own, most in zip(sizes, padded, strict=True)
    )
    if not is_padded or (sizes[0], sizes[-1]) != (padded[0], padded[-1]) or min(sizes) < 1:
        raise UsageError(
            "padded must have as many layers as sizes, none smaller, and the same inputs and "
            f"outputs; got {padded} for {sizes}"
        )


def check_times(seeds: int, steps: int, every: int, events: int) -> None:
    """Checks that the events lie within the training.

    Raises:
        UsageError: if they do not.
    """
    if min(seeds, steps, every) < 1 or steps % every or not 0 <= events * every <= steps:
        raise UsageError(
            "steps must be a multiple of every, with room for the events; got "
            f"{steps} steps, every {every}, {events} events, {seeds} seeds"
        )
