"""Whether the scenarios are what they are said to be: each is trained beside its counterpart."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import runs
from experiments.diagnose.recipe import Recipe
from experiments.diagnose.registry import HELD_OUT, TUNING
from experiments.diagnose.training import losses
from experiments.errors import UsageError
from experiments.pieces import resumed


@dataclasses.dataclass(frozen=True)
class TrainScenariosExperiment:
    """Train each scenario of `diagnose`, and the healthy recipe that it is a change of."""

    held_out: bool = False
    """Those held out instead of those for tuning."""
    steps: int = 200
    """Training steps."""
    json: Path | None = None
    """Where to write the numbers, if anywhere."""
    run_dir: Path | None = None
    """Losses; resumed where it was left. Default: runs/train-scenarios-tuning or -held-out."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        if self.steps < 20:
            raise UsageError(f"steps must be at least 20, which are averaged; got {self.steps}")

    def run(self) -> None:
        """Train what is left to train, then print and write."""
        which = "held-out" if self.held_out else "tuning"
        chosen = HELD_OUT if self.held_out else TUNING
        folder = self.run_dir or Path("runs") / f"train-scenarios-{which}"
        config = {"set": which, "steps": self.steps}
        runs.open_run(folder, config, overwrite=self.overwrite)
        known: dict[Recipe, dict[str, float]] = {}  # counterparts serve several scenarios

        def measured(recipe: Recipe) -> dict[str, float]:
            if recipe not in known:
                found = losses(recipe, 0, self.steps)
                jax.clear_caches()
                known[recipe] = {
                    "first": float(found[0]),
                    "mean": float(found.mean()),
                    "last": float(found[-20:].mean()),
                }
            return known[recipe]

        def measure(name: str) -> dict[str, Any]:
            scenario = chosen[name]
            base = scenario.base
            return {
                "own": measured(dataclasses.replace(scenario.recipe, trained=0)),
                "base": None if base is None else measured(base),
            }

        rows = resumed(folder / "losses.jsonl", [(name,) for name in chosen], measure)
        for row in rows:
            row["scenario"] = row.pop("piece")[0]
            print(_line(row))
        if self.json:
            runs.write_json(self.json, {"config": config, "rows": rows})


def _line(row: dict[str, Any]) -> str:
    def shown(one: dict[str, float | None]) -> str:
        return " -> ".join(f"{np.nan if one[at] is None else one[at]:9.4g}" for at in one)

    line = f"{row['scenario']:40} {shown(row['own'])}"
    return line if row["base"] is None else f"{line}   counterpart {shown(row['base'])}"
