"""The command: repeat by repeat, one line on disk for each of them; then the comparison."""

import dataclasses
import os
from pathlib import Path
from typing import Any, Literal

from experiments import runs
from experiments.align_training import figure, summary, training
from experiments.data import load
from experiments.errors import UsageError
from experiments.pieces import resumed


@dataclasses.dataclass(frozen=True)
class AlignTrainingExperiment:
    """Average networks that were aligned while they trained, once at the end, or not at all."""

    dataset: Literal["mnist", "digits"] = "mnist" if os.environ.get("TFDS_DATA_DIR") else "digits"
    """What to train on; digits, which come with scikit-learn, where $TFDS_DATA_DIR is not set."""
    repeats: int = 6
    """Times to train a reference and its others, from new seeds."""
    others: int = 3
    """Networks beside the reference."""
    steps: int = 1500
    """Training steps of each."""
    every: int = 250
    """Steps between matchings while training."""
    json: Path | None = None
    """Where to write the comparison, if anywhere."""
    plot: Path | None = None
    """Where to draw it as a PNG, if anywhere."""
    run_dir: Path = Path("runs/align_training")
    """Outcomes of each repeat; resumed where it was left."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        if self.repeats < 2:
            raise UsageError(f"repeats must be at least 2, for an interval; got {self.repeats}")
        for name in ("others", "steps", "every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1; got {getattr(self, name)}")

    def run(self) -> None:
        """Do what is left to do in the run folder, then print, write and draw the comparison."""
        config = {
            name: getattr(self, name) for name in ("dataset", "repeats", "others", "steps", "every")
        } | {"hidden": list(training.HIDDEN), "learning_rate": training.LEARNING_RATE}
        runs.open_run(self.run_dir, config, overwrite=self.overwrite)
        data = load(self.dataset)
        splits = training.splits(data)

        def measure(number: int) -> dict[str, Any]:
            return training.repeat(
                splits,
                number=number,
                others=self.others,
                num_classes=data.num_classes,
                steps=self.steps,
                every=self.every,
            )

        pieces = [(number,) for number in range(self.repeats)]
        records = resumed(self.run_dir / "repeats.jsonl", pieces, measure, names=("repeat",))
        found = summary.compare(records)
        print(summary.text(found, records))
        if self.json:
            runs.write_json(self.json, {"config": config, "comparison": found, "repeats": records})
        if self.plot:
            figure.averages(found, records, self.plot)
