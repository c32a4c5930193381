"""Eigenvalues of the Hessian at critical points of width 2, and of the same embedded wider."""

import dataclasses
import functools
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import runs
from experiments.embedding import figure
from experiments.embedding.networks import DataName, data, squared_error, start, tanh_network
from experiments.errors import ExperimentError, UsageError
from experiments.pieces import resumed
from pfn_optax.curvature import InertiaWarning, hessian_eigenvalues, inertia
from pfn_optax.landscape import embed, find_critical_point
from pfn_optax.precision import double_precision
from pfn_optax.units import UnitSpec, unit_spec

_WIDTH, _COPIES = 2, (1, 2, 3)
# What counts as zero, of the gradient and of an eigenvalue: the dashed line of the original study.
_TOLERANCE = 1e-11
# What the original study saw: negative eigenvalues for 1, 2 and 3 copies of a unit.
_SEED: dict[DataName, list[int]] = {"line": [0, 1, 2], "iris": [3, 5, 7]}


@dataclasses.dataclass(frozen=True)
class EigenvaluesExperiment:
    """Eigenvalues at a critical point before and after embedding it."""

    starts: int = 60
    """Starts from which to look for critical points, for each data set."""
    newton_steps: int = 1000
    """Steps towards each of them at most."""
    json: Path | None = None
    """Where to write the numbers, if anywhere."""
    plot: Path | None = None
    """Where to draw them as a PNG, if anywhere."""
    run_dir: Path = Path("runs/eigenvalues")
    """The critical points; resumed where it was left."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        if self.starts < 1 or self.newton_steps < 1:
            raise UsageError(
                f"starts and newton-steps must be positive; got {self.starts}, {self.newton_steps}"
            )

    def run(self) -> None:
        """Find what is left to find in the run folder, then print, write and draw the counts."""
        config = {"starts": self.starts, "newton_steps": self.newton_steps}
        runs.open_run(self.run_dir, config, overwrite=self.overwrite)
        pieces = [(name, seed) for name in _SEED for seed in range(self.starts)]
        records = resumed(
            self.run_dir / "points.jsonl",
            pieces,
            functools.partial(_record, newton_steps=self.newton_steps),
            names=("data", "start"),
        )
        shown = {}
        for name, expected in _SEED.items():
            own = [one for one in records if one["data"] == name]
            converged = [one for one in own if one["copies"]]
            if not converged:
                raise ExperimentError(f"no start converged on {name}; try more --starts")
            # The point nearest to the one of the original study, whose start is not known.
            shown[name] = min(converged, key=lambda one: _distance(one, expected))
            print(f"{name}: {len(converged)} of {len(own)} starts converged")
            point = shown[name]
            print(
                f"  start {point['start']}, loss {point['loss']:.6f}, |g|_1 "
                f"{point['gradient_norm']:.1e}; the original saw {expected} negative"
            )
            for entry in point["copies"]:
                print(
                    f"  width {entry['width']}: {entry['negative']} negative, "
                    f"{entry['zero']} zero, {entry['positive']} positive"
                )
        if self.json:
            runs.write_json(self.json, {"config": config, "shown": shown, "all": _counts(records)})
        if self.plot:
            titles = {
                name: f"{name}, |g|₁ = {point['gradient_norm']:.0e}"
                for name, point in shown.items()
            }
            panels = {name: point["copies"] for name, point in shown.items()}
            figure.eigenvalues(panels, titles, self.plot)


def _record(name: DataName, seed: int, *, newton_steps: int) -> dict[str, Any]:
    """Down to a minimum on the line; to the nearest critical point on the irises."""
    x, y = data(name)
    point = find_critical_point(
        squared_error,
        start(seed, x.shape[1], _WIDTH, y.shape[1]),
        x,
        y,
        tolerance=_TOLERANCE,
        descent_steps=1000 if name == "line" else seed % 6,
        newton_steps=newton_steps,
    )
    record = {"loss": point.loss, "gradient_norm": point.gradient_norm, "copies": []}
    if point.status == "converged":
        spec = unit_spec(tanh_network, point.params, x, check=False)
        record["copies"] = [_embedded(point.params, spec, x, y, copies) for copies in _COPIES]
    return record


def _embedded(params: Any, spec: UnitSpec, x: Any, y: Any, copies: int) -> dict[str, Any]:
    """The first unit in so many equal parts."""
    [group] = spec.groups
    unit = 0
    for left in range(copies, 1, -1):
        # A part of what is left; the rest comes last, and is split next.
        params, spec = embed(params, spec, group.name, unit, alpha=1 / left)
        unit = spec.group(group.name).size - 1
    with double_precision(), warnings.catch_warnings():
        # Whether the count is certain is in the record, as the gap.
        warnings.simplefilter("ignore", InertiaWarning)
        values = np.asarray(hessian_eigenvalues(squared_error, params, x, y))
        counts = inertia(values, tolerance=_TOLERANCE)
        slopes = jax.tree.leaves(jax.grad(squared_error)(params, x, y))
    return {
        "width": spec.group(group.name).size,
        "gradient_norm": float(sum(np.abs(slope).sum() for slope in slopes)),
        "eigenvalues": values.tolist(),
        **counts._asdict(),
    }


def _distance(point: dict[str, Any], expected: list[int]) -> tuple[int, int, float]:
    """How far the gains of each split are from the original's, and then the first count."""
    seen = [[entry["negative"], entry["zero"]] for entry in point["copies"]]
    gains = np.diff(seen, axis=0) - np.transpose([np.diff(expected), np.ones(len(expected) - 1)])
    return int(np.abs(gains).sum()), abs(seen[0][0] - expected[0]), point["loss"]


def _counts(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was found from every start, without the eigenvalues."""
    return [
        {name: one[name] for name in ("data", "start", "loss", "gradient_norm")}
        | {"counts": [[entry[sign] for sign in ("negative", "zero")] for entry in one["copies"]]}
        for one in records
    ]
