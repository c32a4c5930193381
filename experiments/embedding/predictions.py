"""How often a split adds the directions down, level and up that are predicted of it."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments import runs
from experiments.embedding.networks import errors, squared_error, start, tanh_network
from experiments.errors import UsageError
from pfn_optax.curvature import Inertia, InertiaWarning, hessian_eigenvalues, inertia
from pfn_optax.landscape import embed, find_critical_point, predicted_inertia
from pfn_optax.precision import double_precision
from pfn_optax.units import unit_spec

_ALPHAS = (0.5, 0.3, -0.5, 1.5)
_TOLERANCE = 1e-11


@dataclasses.dataclass(frozen=True)
class SplitsExperiment:
    """Compare the inertia that a split adds with the prediction, at random critical points."""

    cases: int = 60
    """Critical points that a unit is split at, each with the next of four alphas."""
    json: Path | None = None
    """Where to write the cases, if anywhere."""
    run_dir: Path = Path("runs/splits")
    """The cases so far; resumed where it was left."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        if self.cases < 1:
            raise UsageError(f"cases must be positive; got {self.cases}")

    def run(self) -> None:
        """Measure what is left to measure in the run folder, then print and write the counts."""
        runs.open_run(self.run_dir, {"cases": self.cases}, overwrite=self.overwrite)
        file = self.run_dir / "cases.jsonl"
        records = runs.read_lines(file)
        whole = file.read_bytes().rfind(b"\n") + 1 if file.exists() else 0
        found = sum(one["converged"] for one in records)
        with (
            runs.LineLog(file, keep_bytes=whole) as log,
            tqdm(total=self.cases, initial=found, desc="splits", unit=" cases") as bar,
        ):
            while found < self.cases:
                records.append(_record(len(records), found))
                log.write(records[-1])
                found += records[-1]["converged"]
                bar.update(int(records[-1]["converged"]))
        cases = [one for one in records if one["converged"]]
        equal = sum(one["measured"] == one["predicted"] for one in cases)
        certain = sum(one["is_separated"] for one in cases)
        print(
            f"{equal} of {len(cases)} splits add what is predicted; {certain} of the counts stand "
            f"in a clear gap. {len(records) - len(cases)} starts reached no critical point."
        )
        if self.json:
            summary = {"equal": equal, "cases": len(cases), "starts": len(records)}
            runs.write_json(self.json, summary | {"all": cases})


def _record(seed: int, number: int) -> dict[str, Any]:
    """A critical point of a random problem with one or two outputs, and a split there."""
    draw = np.random.default_rng(seed)
    num_outputs = 1 + seed % 2
    x, y = draw.normal(size=(12, 2)), draw.normal(size=(12, num_outputs))
    point = find_critical_point(
        squared_error,
        start(seed, 2, 2, num_outputs),
        x,
        y,
        tolerance=_TOLERANCE,
        descent_steps=seed % 4,
        newton_steps=300,
    )
    size = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(point.params))
    # Where a weight runs off to infinity there is a slope that ends, and no point.
    if point.status != "converged" or size > 20:
        return {"seed": seed, "converged": False}
    params, alpha, unit = point.params, _ALPHAS[number % len(_ALPHAS)], seed // 2 % 2
    spec = unit_spec(tanh_network, params, x, check=False)
    wide, _ = embed(params, spec, spec.groups[0].name, unit, alpha=alpha)
    with warnings.catch_warnings():
        # Whether the counts are certain is in the record.
        warnings.simplefilter("ignore", InertiaWarning)
        added = predicted_inertia(
            jnp.tanh,
            np.hstack([x, np.ones((len(x), 1))]),
            np.append(params["w"][:, unit], params["b"][unit]),
            params["a"][unit],
            errors(params, x, y),
            alpha=alpha,
            tolerance=_TOLERANCE,
        )
        with double_precision():
            values = np.asarray(hessian_eigenvalues(squared_error, wide, x, y))
        after = inertia(values, tolerance=_TOLERANCE)
        before = inertia(point.eigenvalues, tolerance=_TOLERANCE)
    return {
        "seed": seed,
        "converged": True,
        "alpha": alpha,
        "gradient_norm": point.gradient_norm,
        "narrow": _signs(before),
        "measured": np.subtract(_signs(after), _signs(before)).tolist(),
        "predicted": _signs(added),
        "is_separated": before.is_separated and after.is_separated and added.is_separated,
    }


def _signs(counts: Inertia) -> list[int]:
    return [counts.negative, counts.zero, counts.positive]
