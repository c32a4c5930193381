"""The command: train each arm from each start, compare; one line on disk for each of them."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from experiments import runs
from experiments.errors import UsageError
from experiments.pieces import resumed
from experiments.regularise import figure, summary
from experiments.regularise.networks import ARMS, STARTS, Arm, Start
from experiments.regularise.training import train

LEARNING_RATES = (0.03, 0.1, 0.3)
STRENGTHS: dict[Arm, tuple[float, ...]] = {
    "plain": (0.0,),
    "weight decay": (1e-4, 1e-3, 1e-2, 1e-1),
    "smallest rank": (0.003, 0.03, 0.3, 3.0),
    "flow": (0.003, 0.03, 0.3, 3.0),
}


@dataclasses.dataclass(frozen=True)
class RegulariseExperiment:
    """Raise the maximum flow by a regulariser, beside weight decay and a rank without flow."""

    seeds: int = 8
    """Models of each arm, learning rate and strength."""
    marks: tuple[int, ...] = (50, 400)
    """Steps of training after which to compare."""
    json: Path | None = None
    """Where to write the comparison, if anywhere."""
    plot: Path | None = None
    """Where to draw it as a PNG, if anywhere."""
    run_dir: Path = Path("runs/regularise")
    """Outcomes of each arm; resumed where it was left."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        if self.seeds < 2:
            raise UsageError(f"seeds must be at least 2, for an interval; got {self.seeds}")
        if not self.marks or list(self.marks) != sorted({*self.marks}) or self.marks[0] < 1:
            raise UsageError(
                f"marks must be steps in increasing order, such as 50 400; got {self.marks}"
            )

    def run(self) -> None:
        """Do what is left to do in the run folder, then print, write and draw the comparison."""
        config = {
            "seeds": self.seeds,
            "marks": list(self.marks),
            "learning_rates": list(LEARNING_RATES),
            "strengths": {arm: list(grid) for arm, grid in STRENGTHS.items()},
        }
        runs.open_run(self.run_dir, config, overwrite=self.overwrite)
        file, pieces = self.run_dir / "arms.jsonl", list(itertools.product(STARTS, ARMS))
        found = summary.compare(resumed(file, pieces, self._record, names=("start", "arm")))
        print(summary.text(found))
        if self.json:
            runs.write_json(self.json, {"config": config, "comparison": found})
        if self.plot:
            figure.differences(found, self.plot)

    def _record(self, start: Start, arm: Arm) -> dict[str, Any]:
        settings = [(rate, strength) for rate in LEARNING_RATES for strength in STRENGTHS[arm]]
        rates, strengths = np.repeat(settings, self.seeds, axis=0).T
        outcomes = train(
            start,
            arm,
            seeds=np.tile(np.arange(self.seeds), len(settings)),
            learning_rates=rates,
            strengths=strengths,
            marks=self.marks,
        )
        return {
            "marks": [
                {
                    "step": step,
                    "settings": [
                        {"learning_rate": rate, "strength": strength}
                        | {
                            name: values[index * self.seeds : (index + 1) * self.seeds].tolist()
                            for name, values in outcome._asdict().items()
                        }
                        for index, (rate, strength) in enumerate(settings)
                    ],
                }
                for step, outcome in zip(self.marks, outcomes, strict=True)
            ],
        }
