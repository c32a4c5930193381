"""The command `grow-planted`: a bottleneck that is not the narrowest layer, and who grows it."""

import dataclasses
from pathlib import Path
from typing import Any, cast

from experiments import runs
from experiments.data import DatasetName
from experiments.errors import UsageError
from experiments.growth import planted_figure, planted_summary
from experiments.growth.arms import CRITERIA, mode_of
from experiments.growth.growing import How, Plan, as_record, run
from experiments.growth.images import images
from experiments.growth.plants import Kind, planted
from experiments.growth.programs import Recipe, groups_of
from experiments.growth.waist import check_sizes, check_times, config_of
from experiments.pieces import resumed

CAUSES: tuple[tuple[Kind, int], ...] = (("frozen", 2), ("low rank", 1), ("dead", 2))
"""What is planted, and how many units or directions are left."""

MILD: tuple[tuple[Kind, int], ...] = (("healthy", 0), ("frozen", 32), ("low rank", 4), ("dead", 32))
"""Milder plants, to see what they cost a network that does not grow."""

ORACLE = "planted group"
_ARMS = (*(arm for arm in CRITERIA if arm != "nowhere"), ORACLE)
_OTHER_UNITS = ("narrowest", "cut, norm", "cut, jacobian_rank", ORACLE)

PIECES: tuple[tuple[Kind, int, str, str], ...] = (
    *((kind, left, "none", "nowhere") for kind, left in (*CAUSES, *MILD)),
    *((kind, left, "initialised", arm) for arm in _ARMS for kind, left in CAUSES),
    *((*CAUSES[0], how, arm) for how in ("fresh", "split") for arm in _OTHER_UNITS),
)
"""What is planted and how much is left, how an event adds units, and the arm."""

NAMES = ("kind", "left", "how", "arm")


@dataclasses.dataclass(frozen=True)
class GrowPlantedExperiment:
    """Plant a bottleneck where a network is wide: who grows it, and does it help?"""

    seeds: int = 6
    """Networks of each arm; a seed sets the initial parameters and the batches."""
    steps: int = 400
    """Steps of training, a multiple of `every`."""
    every: int = 20
    """Steps from one event to the next."""
    events: int = 5
    """How often a group grows, from the first event on."""
    sizes: tuple[int, ...] = (196, 64, 64, 64, 64, 24, 10)
    """Inputs, hidden units of each layer, outputs."""
    padded: tuple[int, ...] = (196, 80, 92, 92, 100, 68, 10)
    """The same with the most that each layer may reach."""
    group: str = "Dense_2"
    """The layer that is planted."""
    parameters: int = 600
    """Parameters that each event may spend: 4 units of the planted layer, 8 of the narrowest."""
    target: float = 0.8
    """Training loss, mean over `every` steps, to be reached; in nats."""
    learning_rate: float = 1e-3
    """Of Adam, in all arms."""
    batch_size: int = 32
    """Images in a batch."""
    dataset: DatasetName = "mnist"
    """Where the images are from."""
    pool: int = 2
    """Side of the squares of pixels of which the mean is taken."""
    train_images: int = 10_000
    """How many of them to train on."""
    kinds: tuple[Kind, ...] = ("frozen", "low rank", "dead")
    """What is planted, besides nothing."""
    arms: tuple[str, ...] = ()
    """Only these arms; by default all."""
    data_dir: Path | None = None
    """TFDS data directory. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    json: Path | None = None
    """Where to write the numbers, if anywhere."""
    plot: Path | None = None
    """Where to draw them as a PNG, if anywhere."""
    run_dir: Path = Path("runs/grow-planted")
    """Outcomes of each arm; resumed where it was left."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        check_sizes(self.sizes, self.padded)
        check_times(self.seeds, self.steps, self.every, self.events)
        if unknown := {*self.arms} - {"nowhere", *_ARMS}:
            raise UsageError(
                f"there is no arm {', '.join(sorted(unknown))}; there are nowhere, "
                f"{', '.join(_ARMS)}"
            )
        if self.group not in groups_of(self.sizes):
            raise UsageError(
                f"group must be one of {', '.join(groups_of(self.sizes))}; got {self.group!r}"
            )

    def run(self) -> None:
        """Train what is left to train in the run folder, then print, write and draw it."""
        config = config_of(self)
        runs.open_run(self.run_dir, config, overwrite=self.overwrite)
        pieces = [
            piece
            for piece in PIECES
            if (piece[0] in self.kinds or piece[0] == "healthy")
            and (not self.arms or piece[3] in self.arms)
        ]
        records = resumed(self.run_dir / "arms.jsonl", pieces, self._record, names=NAMES)
        rows = planted_summary.summarise(records, self.group, self.every, self.target)
        print(planted_summary.text(rows))
        if self.json:
            runs.write_json(self.json, {"config": config, "rows": rows})
        if self.plot:
            planted_figure.draw(rows, self.plot)

    def _record(self, kind: Kind, left: int, how: str, arm: str) -> dict[str, Any]:
        recipe = Recipe(
            self.padded,
            mode=mode_of(arm),
            every=self.every,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
        )
        units: How = "initialised" if how == "none" else cast(How, how)
        plan = Plan(self.steps, self.events, how=units, num_parameters=self.parameters)
        networks = {
            seed: planted(self.sizes, kind, self.group, left, seed) for seed in range(self.seeds)
        }
        data = images(self.dataset, self.train_images, self.data_dir, pool=self.pool)
        criteria = {**CRITERIA, ORACLE: lambda _: (self.group,)}
        return as_record(run(arm, recipe, plan, networks, data, criteria=criteria))
