"""The command: plant, train, ask, score; one line on disk for each network and phase."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments import runs
from experiments.errors import UsageError
from experiments.pieces import resumed
from experiments.planted import figure, tables
from experiments.planted.bottlenecks import KINDS, Case, healed, kinds_of, plant
from experiments.planted.methods import GRAPHS, answers, layout_of
from experiments.planted.networks import FAMILIES, SIZES, Family, Params
from experiments.planted.scores import planted_blocks, score
from experiments.planted.training import PHASES, Phase, digit_batches, gradients, train

NUM_BATCHES, BATCH_SIZE = 10, 64


@dataclasses.dataclass(frozen=True)
class PlantedExperiment:
    """Plant bottlenecks in networks, ask cuts and rivals for them, and score the answers."""

    seeds: int = 3
    """Networks of each family, size and kind of bottleneck; a seed sets weights and place."""
    families: tuple[Family, ...] = FAMILIES
    """Which networks."""
    steps: int = 100
    """Steps of training, by SGD and by Adam, after which the same is asked again."""
    json: Path | None = None
    """Where to write the tables, if anywhere."""
    plot: Path | None = None
    """Where to draw them as a PNG, if anywhere."""
    run_dir: Path = Path("runs/planted")
    """Scores of each network; resumed where it was left."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        for name in ("seeds", "steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not self.families:
            raise UsageError(f"families must be one or more of {', '.join(FAMILIES)}; got none")

    def run(self) -> None:
        """Do what is left to do in the run folder, then print, write and draw the tables."""
        config = {
            "seeds": self.seeds,
            "families": list(self.families),
            "steps": self.steps,
            "num_batches": NUM_BATCHES,
            "batch_size": BATCH_SIZE,
        }
        runs.open_run(self.run_dir, config, overwrite=self.overwrite)
        cases = {(_name(case), case.kind, seed): case for case, seed in self._cases()}
        records = resumed(
            self.run_dir / "networks.jsonl",
            [(*key, phase) for key in cases for phase in PHASES],
            functools.partial(self._record, cases),
            names=("architecture", "kind", "seed", "phase"),
        )
        found = tables.summary(records)
        print(tables.text(found))
        if self.json:
            self.json.write_text(tables.as_json({"config": config} | found))
        if self.plot:
            figure.heat_map(found, self.plot)

    def _cases(self) -> Iterator[tuple[Case, int]]:
        for family in self.families:
            for architecture in SIZES[family]:
                for kind in kinds_of(architecture):
                    for seed in range(self.seeds):
                        yield plant(architecture, kind, seed), seed

    def _record(
        self,
        cases: Mapping[tuple[str, str, int], Case],
        architecture: str,
        kind: str,
        seed: int,
        phase: Phase,
    ) -> dict[str, Any]:
        case = cases[architecture, kind, seed]
        params: Params = case.params
        if phase != "initial":
            batches = digit_batches(self.steps, BATCH_SIZE, seed=seed)
            params = train(case.architecture, phase, params, batches)
        batches = digit_batches(NUM_BATCHES, BATCH_SIZE, seed=1000 + seed)
        loss, slopes = gradients(case.architecture, params, batches)
        size = FAMILIES.index(case.architecture.family), case.architecture.width
        own_seed = seed, KINDS.index(case.kind), PHASES.index(phase), *size
        said = answers(case.architecture, params, slopes, seed=own_seed)
        planted = {
            graph: planted_blocks(layout_of(graph, case.architecture), case) for graph in GRAPHS
        }
        return {
            "place": case.name,
            "loss": loss,
            "healed": healed(case, params),
            "methods": {
                method: score(answer, case, planted.get(method.split(":")[0]))._asdict()
                for method, answer in said.items()
            },
        }


def _name(case: Case) -> str:
    return f"{case.architecture.family}-{case.architecture.width}"
