"""Gradient descent from small weights at several widths: where the losses rest, and on what."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments import runs
from experiments.embedding import figure
from experiments.embedding.networks import target
from experiments.errors import UsageError

_EVERY = 500  # steps from one record to the next
_NUM_POINTS = 40


class Course(NamedTuple):
    """What became of one width.

    Attributes:
        losses: f32[num_starts, num_records].
        params: w, b and a, f32[num_starts, num_records, 3, width].
    """

    losses: np.ndarray
    params: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Training:
    """What both commands train, and where they keep it."""

    widths: tuple[int, ...] = (2, 3, 5, 10, 50)
    """Numbers of hidden units, the narrowest first."""
    starts: int = 8
    """Networks of each width."""
    steps: int = 500_000
    """Steps of gradient descent."""
    learning_rate: float = 1e-3
    """Of gradient descent."""
    json: Path | None = None
    """Where to write the numbers, if anywhere."""
    plot: Path | None = None
    """Where to draw them as a PNG, if anywhere."""
    run_dir: Path = Path("runs/plateaus")
    """The trained widths; resumed where it was left."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        if not self.widths or list(self.widths) != sorted({*self.widths}) or self.widths[0] < 1:
            raise UsageError(f"widths must be increasing, such as 2 3 10; got {self.widths}")
        if self.starts < 1 or self.steps < _EVERY:
            raise UsageError(
                f"there must be a start and {_EVERY} steps; got {self.starts} and {self.steps}"
            )

    @property
    def config(self) -> dict[str, Any]:
        """What determines the results."""
        return {
            "widths": list(self.widths),
            "starts": self.starts,
            "steps": self.steps,
            "learning_rate": self.learning_rate,
        }

    def courses(self) -> dict[int, Course]:
        """Every width, from the run folder where it is there."""
        runs.open_run(self.run_dir, self.config, overwrite=self.overwrite)
        found = {}
        for width in tqdm(self.widths, desc="widths", unit=" widths"):
            file = self.run_dir / f"{width}.npz"
            if not file.exists():
                course = _train(width, self.starts, self.steps // _EVERY, self.learning_rate)
                partial = file.with_suffix(".partial.npz")
                np.savez(partial, **course._asdict())
                partial.replace(file)
            with np.load(file) as arrays:
                found[width] = Course(**arrays)
        return found


@dataclasses.dataclass(frozen=True)
class LossCurvesExperiment(_Training):
    """Losses of ReLU networks of several widths, which rest at the same values."""

    def run(self) -> None:
        """Train what is left to train, then print, write and draw the losses."""
        courses = self.courses()
        losses = {width: course.losses for width, course in courses.items()}
        final = {width: np.sort(course[:, -1]) for width, course in losses.items()}
        for width, values in final.items():
            text = np.array2string(np.log10(values), precision=2)
            print(f"width {width}: final log10 losses {text}")
        if self.json:
            values = {str(width): values.tolist() for width, values in final.items()}
            runs.write_json(self.json, {"config": self.config, "final_losses": values})
        if self.plot:
            figure.loss_curves(losses, _EVERY, self.plot)


@dataclasses.dataclass(frozen=True)
class PlateauExperiment(_Training):
    """What networks of several widths compute at the minimum of the narrowest one."""

    def run(self) -> None:
        """Train what is left to train, then print, write and draw outputs and merged units."""
        courses = self.courses()
        level = float(courses[self.widths[0]].losses[:, -1].min())
        found = {width: _at(course, level) for width, course in courses.items()}
        reference = found[self.widths[0]]["outputs"]
        for row in found.values():
            gap = np.abs(np.subtract(row["outputs"], reference)).max()
            row["largest_difference"] = float(gap)
        print(f"plateau at the loss {level:.5f} of width {self.widths[0]}")
        for width, row in found.items():
            units = ", ".join(f"{u['angle']:+.2f}: {u['amplitude']:.2f}" for u in row["units"])
            print(
                f"width {width}: loss {row['loss']:.5f}, outputs within "
                f"{row['largest_difference']:.3f}, merged units (angle: amplitude) {units}"
            )
        if self.json:
            rows = {str(width): row for width, row in found.items()}
            runs.write_json(self.json, {"config": self.config, "level": level, "widths": rows})
        if self.plot:
            figure.plateau(found, *map(np.asarray, _points()), file=self.plot)


def _points() -> tuple[np.ndarray, np.ndarray]:
    x = np.linspace(-1.5, 1.5, _NUM_POINTS)
    return x, target(x)


def _network(params: jax.Array, x: jax.Array) -> jax.Array:
    w, b, a = params
    return jax.nn.relu(x[:, None] * w + b) @ a


@functools.partial(jax.jit, static_argnums=(1, 2))
def _descend(initial: jax.Array, num_records: int, every: int, learning_rate: float) -> Any:
    x, y = map(jnp.float32, _points())

    def loss(params):
        return jnp.square(_network(params, x) - y).mean() / 2

    def record(params, _):
        later = jax.lax.fori_loop(
            0, every, lambda _, params: params - learning_rate * jax.grad(loss)(params), params
        )
        return later, (loss(params), params)

    return jax.vmap(lambda params: jax.lax.scan(record, params, None, num_records)[1])(initial)


def _train(width: int, num_starts: int, num_records: int, learning_rate: float) -> Course:
    """From weights of size 0.1 / width: the wider the network, the smaller each unit."""
    initial = 0.1 / width * jax.random.normal(jax.random.key(0), (num_starts, 3, width))
    return Course(*map(np.asarray, _descend(initial, num_records, _EVERY, learning_rate)))


def _at(course: Course, level: float) -> dict[str, Any]:
    """The network of the start that ended lowest, where its loss was nearest to the level."""
    best = course.losses[:, -1].argmin()
    losses = course.losses[best]
    record = np.abs(np.log(losses / level)).argmin()
    params = course.params[best, record]
    return {
        "step": int(record) * _EVERY,
        "loss": float(losses[record]),
        "outputs": np.asarray(_network(jnp.asarray(params), jnp.float32(_points()[0]))).tolist(),
        "units": _merged(params),
    }


def _merged(params: np.ndarray) -> list[Mapping[str, float]]:
    """Units by the direction of (w, b): amplitudes |a| |(w, b)| of the same direction summed.

    Directions within 0.1 of the one before are the same; what has less than a hundredth of the
    largest amplitude is left out.
    """
    w, b, a = params.astype(float)
    amplitudes = np.abs(a) * np.hypot(w, b)
    kept = amplitudes > 0.01 * amplitudes.max()
    angles, amplitudes = np.arctan2(b, w)[kept], amplitudes[kept]
    order = np.argsort(angles)
    angles, amplitudes = angles[order], amplitudes[order]
    groups = np.split(np.arange(len(angles)), np.flatnonzero(np.diff(angles) > 0.1) + 1)
    merged = [
        {
            "angle": float(np.average(angles[group], weights=amplitudes[group])),
            "amplitude": float(amplitudes[group].sum()),
            "num_units": len(group),
        }
        for group in groups
    ]
    largest = max(unit["amplitude"] for unit in merged)
    return [unit for unit in merged if unit["amplitude"] > 0.01 * largest]
