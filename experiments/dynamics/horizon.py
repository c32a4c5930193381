"""The gradient of a long average against how long it is, by every method."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runs
from experiments.dynamics import figure
from experiments.dynamics.systems import SYSTEMS, System, SystemName, starts, true_derivative
from experiments.errors import UsageError
from experiments.pieces import Piece, resumed
from pfn_optax.dynamics import GradientStatus, lyapunov_spectrum, value_and_grad_long
from pfn_optax.precision import double_precision


@dataclasses.dataclass(frozen=True)
class GradientHorizonExperiment:
    """Gradients of long averages of chaotic systems: their size and error against the horizon."""

    seeds: int = 8
    """Starts, each with its own noise."""
    shortest: int = 5
    """How many horizons of each system to take, from the shortest on."""
    members: int = 100
    """Trajectories of the ensembles whose difference is the truth."""
    member_steps: int = 10_000
    """Steps of each."""
    json: Path | None = None
    """Where to write the numbers, if anywhere."""
    plot: Path | None = None
    """Where to draw them as a PNG, if anywhere."""
    run_dir: Path = Path("runs/gradient-horizon")
    """Gradients by method and horizon; resumed where it was left."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        for name, least in (("seeds", 2), ("shortest", 1), ("members", 2), ("member_steps", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}; got {getattr(self, name)}")

    def run(self) -> None:
        """Measure what is left to measure in the run folder, then print, write and draw."""
        names = ("seeds", "shortest", "members", "member_steps")
        config = {name: getattr(self, name) for name in names}
        runs.open_run(self.run_dir, config, overwrite=self.overwrite)
        found = {}
        with double_precision():
            for name, make in SYSTEMS.items():
                found[name] = self._system(name, make())
        for name, one in found.items():
            print(_text(name, one))
        if self.json:
            runs.write_json(self.json, {"config": config, "systems": found})
        if self.plot:
            figure.horizons(found, self.plot)

    def _system(self, name: SystemName, system: System) -> dict[str, Any]:
        """The exponent, the truth and all methods of a system."""
        horizons = system.horizons[: self.shortest]
        pieces: list[Piece] = [("exponents",), ("truth", 0.0), ("truth", system.noise)]
        pieces += [(method, steps) for method in system.methods for steps in horizons]

        def measure(kind: Any, value: Any = None) -> dict[str, Any]:
            if kind == "exponents":
                return _exponents(system)
            if kind == "truth":
                slope, mean = true_derivative(
                    system, noise=value, num_members=self.members, num_steps=self.member_steps
                )
                return {"value": mean, "derivative": slope._asdict()}
            return _gradients(system, kind, value, self.seeds)

        file = self.run_dir / f"{name.replace(' ', '_')}.jsonl"
        exponents, truth, noisy_truth, *records = resumed(file, pieces, measure)
        rows = []
        for record in records:
            method, steps = record.pop("piece")
            options = system.methods[method]
            exact = (noisy_truth if "noise" in options else truth)["derivative"]["mean"]
            row = {"method": method, "time": steps * system.time_step, "steps": steps, **record}
            row["median_norm"] = _median(np.asarray(record["norm"], float))
            row["median_error"] = _median(np.asarray(record["derivative"], float) - exact)
            rows.append(row)
        return {
            "exponents": exponents["exponents"],
            "truth": truth["derivative"],
            "truth_with_noise": noisy_truth["derivative"],
            "noise": system.noise,
            "rows": rows,
        }


def _exponents(system: System) -> dict[str, Any]:
    """Per unit of time, of the system without noise."""
    found = lyapunov_spectrum(
        lambda x: system.step(system.params, x),
        system.start,
        num_steps=20_000,
        num_transient=system.num_transient,
        time_step=system.time_step,
    )
    return {"exponents": np.asarray(found.exponents).tolist()}


def _gradients(system: System, method: Any, num_steps: int, num_seeds: int) -> dict[str, Any]:
    """Norms of the gradient, and derivatives along the direction, one per seed."""
    function = value_and_grad_long(
        system.step,
        system.objective,
        num_steps=num_steps,
        num_transient=system.num_transient,
        method=method,
        **system.methods[method],
    )
    keys = jax.random.split(jax.random.key(0), num_seeds)
    found = jax.vmap(lambda start, key: function(system.params, start, key=key))(
        starts(system, keys), keys
    )
    flat = found.gradient.reshape(num_seeds, -1)
    largest = jnp.abs(flat).max(axis=1)  # whose square may overflow
    norm = largest * jnp.linalg.norm(flat / largest[:, None], axis=1)
    return {
        "norm": np.asarray(norm).tolist(),
        "derivative": np.asarray(flat @ system.direction.ravel()).tolist(),
        "status": [GradientStatus(int(code)).name for code in found.status],
    }


def _median(values: np.ndarray) -> float:
    """The median size; what is not finite, and has become null on disk, is larger than all."""
    return float(np.median(np.where(np.isfinite(values), np.abs(values), np.inf)))


def _text(name: str, found: dict[str, Any]) -> str:
    slopes = "; ".join(
        f"{label} {value['mean']:.4f} [{value['low']:.4f}, {value['high']:.4f}]"
        for label, value in (("truth", found["truth"]), ("with noise", found["truth_with_noise"]))
    )
    lines = [f"{name}: leading exponent {found['exponents'][0]:.4f} per unit of time; {slopes}"]
    for row in found["rows"]:
        lines.append(
            f"  {row['method']}, {row['steps']} steps: median norm {row['median_norm']:.3g}, "
            f"median error {row['median_error']:.3g}"
        )
    return "\n".join(lines)
