"""What the commands on signal propagation share: options, and a run in pieces that goes on."""

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import runs
from experiments.errors import UsageError
from experiments.pieces import Piece, resumed
from experiments.statistics import Estimate, estimate

OPTIONS_OF_OUTPUT = ("json", "plot", "run_dir", "overwrite")
Records = Sequence[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Study(ABC):
    """A command that measures in pieces, then prints, writes and draws what it found."""

    seeds: int = 5
    """Random draws of each network."""
    json: Path | None = None
    """Where to write the numbers, if anywhere."""
    plot: Path | None = None
    """Where to draw them as a PNG, if anywhere."""
    run_dir: Path = Path("runs/propagation")
    """Outcomes of each piece; resumed where it was left."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        if self.seeds < 2:
            raise UsageError(f"seeds must be at least 2, for an interval; got {self.seeds}")

    def config(self) -> dict[str, Any]:
        """What determines the results, as JSON values."""
        options = dataclasses.asdict(self)
        own = {name: value for name, value in options.items() if name not in OPTIONS_OF_OUTPUT}
        return json.loads(json.dumps(own))  # tuples, inner ones too, as the lists they become

    def run(self) -> None:
        """Measure what is left, then print, write and draw."""
        config = self.config()
        runs.open_run(self.run_dir, config, overwrite=self.overwrite)
        found = self.summary(resumed(self.run_dir / "pieces.jsonl", self.pieces(), self.measure))
        print(self.text(found))
        if self.json:
            runs.write_json(self.json, {"config": config, **found})
        if self.plot:
            self.draw(found, self.plot)

    @abstractmethod
    def pieces(self) -> list[Piece]:
        """What to measure, each a tuple of JSON values."""

    @abstractmethod
    def measure(self, *piece: Any) -> dict[str, Any]:
        """The numbers of a piece, as JSON values."""

    @abstractmethod
    def summary(self, records: Records) -> dict[str, Any]:
        """The numbers of all pieces, as they are written."""

    @abstractmethod
    def text(self, found: dict[str, Any]) -> str:
        """The summary as Markdown tables."""

    @abstractmethod
    def draw(self, found: dict[str, Any], file: Path) -> None:
        """Draws the summary."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def told(one: dict[str, float] | Estimate, digits: int = 2) -> str:
    """A mean and half its interval, from an estimate or from how it is written."""
    own = one._asdict() if isinstance(one, Estimate) else one
    return f"{own['mean']:.{digits}f} ± {(own['high'] - own['low']) / 2:.{digits}f}"


def estimates(values: Any) -> dict[str, float]:
    """Mean and 95% interval over draws, as JSON values."""
    return estimate(np.asarray(values, np.float64))._asdict()


def curve(values: Any, digits: int = 4) -> dict[str, list[float]]:
    """Means and 95% intervals of f[draws, points]: a list of each bound."""
    found = [estimate(own) for own in np.asarray(values, np.float64).T]
    return {name: plain([getattr(one, name) for one in found], digits) for name in Estimate._fields}


def point(found: dict[str, list[float]], index: int) -> dict[str, float]:
    """One estimate of a curve."""
    return {name: values[index] for name, values in found.items()}


def plain(values: Any, digits: int = 5) -> Any:
    """Arrays as nested lists of short numbers."""
    return np.asarray(values, np.float64).round(digits).tolist()
