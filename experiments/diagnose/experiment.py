"""`diagnose` on networks that do not train for a known reason, and on healthy ones."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from experiments import runs
from experiments.diagnose import figure
from experiments.diagnose.registry import HELD_OUT, TUNING
from experiments.diagnose.scenario import Scenario
from experiments.diagnose.scores import alarms, label, rank, record, scores
from experiments.errors import UsageError
from experiments.pieces import resumed
from pfn_optax.diagnosis import Diagnosis, diagnose

_FORGET_EVERY = 10


@dataclasses.dataclass(frozen=True)
class DiagnoseExperiment:
    """What `diagnose` says of scenarios with a planted cause: each one, or how often it is right.

    With `--scenario`, prints the diagnosis of each and writes a page of it into the run folder.
    Without, diagnoses all of a set and prints how often the planted cause is among the first
    findings, how often a healthy network has an alarm, and what was missed.
    """

    scenario: tuple[str, ...] = ()
    """Names of scenarios to show, of either set; by default all of a set are scored."""
    seeds: int = 3
    """Seeds of each scenario, for initial parameters and data."""
    held_out: bool = False
    """Score the scenarios that no threshold was chosen by, instead of those for tuning."""
    max_seconds: float = 120.0
    """What one diagnosis may take."""
    json: Path | None = None
    """Where to write the numbers, if anywhere."""
    plot: Path | None = None
    """Where to draw the confusion matrix as a PNG, if anywhere."""
    run_dir: Path | None = None
    """Diagnoses done; resumed where it was left. Default: runs/diagnose-tuning, -held-out or
    -scenarios."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        if self.seeds < 1:
            raise UsageError(f"seeds must be at least 1; got {self.seeds}")
        unknown = [name for name in self.scenario if name not in TUNING | HELD_OUT]
        if unknown:
            raise UsageError(
                f"there is no scenario {', '.join(unknown)}; there are\n"
                f"  {', '.join(TUNING)}\nand, held out,\n  {', '.join(HELD_OUT)}"
            )

    def run(self) -> None:
        """Show the scenarios asked for, or score a set."""
        if self.scenario:
            self._show()
        else:
            self._score()

    def _folder(self, name: str) -> Path:
        return self.run_dir or Path("runs") / f"diagnose-{name}"

    def _show(self) -> None:
        folder = self._folder("scenarios")
        for name in self.scenario:
            scenario = (TUNING | HELD_OUT)[name]
            for seed in range(self.seeds):
                diagnosis = diagnosed(scenario, seed, self.max_seconds)
                print(f"\n{name}, seed {seed}. Planted: {label(scenario)}", end="")
                print(f" in {', '.join(scenario.layers)}" if scenario.layers else "")
                print(scenario.why)
                print(diagnosis)
                page = folder / f"{name}-{seed}.html"
                page.parent.mkdir(parents=True, exist_ok=True)
                page.write_text(diagnosis.html(), encoding="utf-8")
                print(f"page: {page}")

    def _score(self) -> None:
        which = "held-out" if self.held_out else "tuning"
        chosen = HELD_OUT if self.held_out else TUNING
        config = {"set": which, "seeds": self.seeds, "max_seconds": self.max_seconds}
        folder = self._folder(which)
        runs.open_run(folder, config, overwrite=self.overwrite)

        num_done = 0

        def measure(seed: int, name: str) -> dict[str, Any]:
            nonlocal num_done
            num_done += 1
            if num_done % _FORGET_EVERY == 0:
                jax.clear_caches()  # few programs are of use to the next, and each takes memory
            return record(diagnosed(chosen[name], seed, self.max_seconds))

        # Seed by seed, so that a run broken off has seen all scenarios as often.
        pieces = [(seed, name) for seed in range(self.seeds) for name in chosen]
        done = resumed(folder / "diagnoses.jsonl", pieces, measure)
        found: dict[str, list[dict[str, Any]]] = {}
        for (_, name), one in zip(pieces, done, strict=True):
            found.setdefault(name, []).append(one)
        rows = [_row(chosen[name], records) for name, records in found.items()]
        summary = scores(chosen, found)
        for row in rows:
            print(f"{row['scenario']:40} {row['planted']:40} {row['told']}")
        print(_report(summary))
        if self.json:
            runs.write_json(self.json, {"config": config, "summary": summary, "rows": rows})
        if self.plot:
            title = f"{which} scenarios, seeds of each: {self.seeds}"
            figure.confusion_matrix(summary["confusion"], title, self.plot)


def diagnosed(scenario: Scenario, seed: int, max_seconds: float = 120.0) -> Diagnosis:
    """The diagnosis of a scenario."""
    setup = scenario(seed)
    return diagnose(
        setup.loss,
        setup.params,
        setup.batch,
        model=setup.model,
        optimizer=setup.optimizer,
        opt_state=setup.opt_state,
        has_aux=setup.has_aux,
        max_seconds=max_seconds,
    )


def _row(scenario: Scenario, records: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "scenario": scenario.name,
        "family": scenario.family,
        "planted": label(scenario),
        "ranks": [None if scenario.is_healthy else rank(scenario, own) for own in records],
        "told": [[one["cause"] for one in alarms(own)] for own in records],
        "layers": [[one["layers"][:2] for one in alarms(own)] for own in records],
        "seconds": [own["seconds"] for own in records],
        "skipped": [own["skipped"] for own in records],
    }


def _report(summary: dict[str, Any]) -> str:
    def shown(name: str) -> str:
        return "{mean:.1%} [{low:.1%}, {high:.1%}]".format(**summary[name])

    lines = [
        f"{summary['num_pathologies']} pathologies and {summary['num_healthy']} healthy networks, "
        f"seeds of each: {summary['num_seeds']}",
        *(
            f"planted cause among the first {top}: {shown(f'recall_in_top_{top}')}"
            for top in (1, 2, 3)
        ),
        f"healthy networks with an alarm: {shown('false_alarms')}, at most "
        f"{summary['false_alarms_at_most']:.1%} at 95%",
        "seconds per diagnosis: median {median:.1f}, largest {largest:.1f}".format(
            **summary["seconds"]
        ),
    ]
    if summary["names_layer"] is not None:
        lines.append(f"planted layer named, where the cause is: {summary['names_layer']:.1%}")
    lines += [f"missed: {name}, told {told}" for name, told in summary["missed"].items()]
    lines += [
        f"false alarm: {name}, told {told}" for name, told in summary["alarms_on_healthy"].items()
    ]
    return "\n".join(lines)
