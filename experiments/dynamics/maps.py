"""Finite-time exponents over the inputs of trained classifiers, beside where they decide."""

import dataclasses
import os
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.stats import spearmanr
from tqdm import tqdm

from experiments import runs
from experiments.dynamics import map_figure
from experiments.dynamics.classifiers import Task, data, features, logits, margins, train
from experiments.errors import UsageError
from experiments.statistics import estimate
from pfn_optax.dynamics import finite_time_exponents

_REACH = {"moons": 2.5, "rings": 2.5}  # half the side of the map, in standard deviations
_BATCH = 500  # points at a time


@dataclasses.dataclass(frozen=True)
class ExponentMapExperiment:
    """Where deep classifiers stretch their inputs: maps of the largest finite-time exponent."""

    plane: Literal["moons", "rings"] = "moons"
    """The task on points in the plane."""
    images: Literal["mnist", "digits"] = "mnist" if os.environ.get("TFDS_DATA_DIR") else "digits"
    """The task on images; digits, which come with scikit-learn, where $TFDS_DATA_DIR is not set."""
    plane_widths: tuple[int, ...] = (5, 20, 100)
    """Hidden units of each layer, of networks on points."""
    image_widths: tuple[int, ...] = (20, 100)
    """Hidden units of each layer, of networks on images."""
    depth: int = 6
    """Hidden layers, L."""
    seeds: int = 5
    """Networks of each width."""
    steps: int = 3000
    """Training steps."""
    resolution: int = 71
    """Points along a side of a map."""
    tested: int = 1000
    """Test points, the first ones, whose exponents are measured."""
    json: Path | None = None
    """Where to write the numbers, if anywhere."""
    plot: Path | None = None
    """Where to draw the maps as a PNG, if anywhere."""
    run_dir: Path = Path("runs/exponent-map")
    """Maps and exponents of each width; resumed where it was left."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        for name in ("depth", "steps", "tested"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.seeds < 2 or self.resolution < 3:
            raise UsageError(
                "there must be 2 seeds, for an interval, and a resolution of 3; got "
                f"{self.seeds} and {self.resolution}"
            )
        if not self.plane_widths or not self.image_widths:
            raise UsageError("there must be a width for points and one for images")

    def run(self) -> None:
        """Train what is left to train in the run folder, then print, write and draw."""
        config = dataclasses.asdict(self)
        for name in ("json", "plot", "run_dir", "overwrite"):
            del config[name]
        config = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in config.items()
        }
        runs.open_run(self.run_dir, config, overwrite=self.overwrite)
        tasks: dict[Task, tuple[int, ...]]
        tasks = {self.plane: self.plane_widths, self.images: self.image_widths}
        pieces: list[tuple[Task, int]] = [
            (task, width) for task, widths in tasks.items() for width in widths
        ]
        found: dict[tuple[str, int], dict[str, np.ndarray]] = {}
        for task, width in tqdm(pieces, desc="classifiers", unit=" widths"):
            found[task, width] = self._piece(task, width)
        rows = [
            {"task": task, "width": width, **summary(one)} for (task, width), one in found.items()
        ]
        for row in rows:
            print(_line(row))
        if self.json:
            runs.write_json(self.json, {"config": config, "rows": rows})
        if self.plot:
            map_figure.maps(found, rows, self.plot)

    def _piece(self, task: Task, width: int) -> dict[str, np.ndarray]:
        """All seeds of a width, from the run folder where it is there."""
        file = self.run_dir / f"{task}-{width}.npz"
        if not file.exists():
            measured: dict[str, Any] = self._measured(task, width)
            partial = file.with_suffix(".partial.npz")
            np.savez(partial, **measured)
            partial.replace(file)
        with np.load(file) as arrays:
            return dict(arrays)

    def _measured(self, task: Task, width: int) -> dict[str, np.ndarray]:
        """Maps, one per seed, and the same numbers at test points.

        Each of `exponents`, `classes` and `margins` has the prefix `map_` or `test_`; `axis` is
        where the points of the map are along each of its sides, and `corners` are those of its
        inputs whose classes differ, in its coordinates.
        """
        given = data(task)
        params = train(
            jnp.asarray(given.inputs),
            jnp.asarray(given.labels),
            width=width,
            depth=self.depth,
            steps=self.steps,
            num_seeds=self.seeds,
        )
        tested = jnp.asarray(given.test_inputs[: self.tested])
        labels = given.test_labels[: self.tested]
        if task in _REACH:
            axis = np.linspace(-_REACH[task], _REACH[task], self.resolution)
            points, corners = np.stack(np.meshgrid(axis, axis), axis=-1), np.zeros((0, 2))
        else:
            axis, points, corners = _plane(given.test_inputs, given.test_labels, self.resolution)
        at = jnp.asarray(points.reshape(-1, given.inputs.shape[1]), jnp.float32)
        return {
            **{f"map_{name}": one for name, one in self._fields(params, at).items()},
            **{f"test_{name}": one for name, one in self._fields(params, tested).items()},
            "test_labels": labels,
            "axis": axis,
            "corners": corners,
        }

    def _fields(self, params: Any, points: jax.Array) -> dict[str, np.ndarray]:
        """Exponents f[seeds, n] of the hidden layers, classes and margins at points f[n, ...]."""
        outputs = jax.vmap(lambda own: logits(own, points))(params)

        @jax.jit
        def exponents(own: Any) -> jax.Array:
            return finite_time_exponents(
                lambda x: features(own, x),
                points,
                depth=self.depth,
                num_exponents=1,
                batch_size=min(_BATCH, len(points)),
            )[:, 0]

        seeds = range(self.seeds)
        own = [jax.tree.map(lambda leaf, seed=seed: leaf[seed], params) for seed in seeds]
        return {
            "exponents": np.stack([exponents(one) for one in own]),
            "classes": np.asarray(outputs.argmax(-1)),
            "margins": np.asarray(margins(outputs)),
        }


def _plane(
    images: np.ndarray, labels: np.ndarray, resolution: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The plane through the first test images of three classes, around their triangle.

    Returns:
        Where the points are along a side, in units of a pixel's range; the inputs
        f32[resolution, resolution, pixels]; the corners f[3, 2] in the coordinates of the plane.
    """
    _, first = np.unique(labels, return_index=True)
    first = np.sort(first)[:3]
    corners = images[first].astype(float)
    centre = corners.mean(axis=0)
    basis = np.linalg.svd(corners - centre)[2][:2]
    places = (corners - centre) @ basis.T
    reach = 1.4 * np.abs(places).max()
    axis = np.linspace(-reach, reach, resolution)
    x, y = np.meshgrid(axis, axis)
    return axis, centre + x[..., None] * basis[0] + y[..., None] * basis[1], places


def summary(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """Numbers over the seeds, as estimates with their intervals.

    On the test points: the accuracy; the mean exponent of those that are classified right, of
    those that are classified wrong, of the tenth with the smallest margins; and the rank
    correlation of exponent and margin. On the map: by how much the exponent within two points of a
    decision boundary is above that of the others.
    """
    columns: dict[str, list[float]] = {}

    def note(**values: float) -> None:
        for name, value in values.items():
            columns.setdefault(name, []).append(float(value))

    side = len(found["axis"])
    for seed, exponents in enumerate(found["test_exponents"]):
        right = found["test_classes"][seed] == found["test_labels"]
        margin = found["test_margins"][seed]
        near = margin <= np.quantile(margin, 0.1)
        is_near = boundary_distance(found["map_classes"][seed].reshape(side, side)).ravel() <= 2
        over = found["map_exponents"][seed]
        note(
            accuracy=right.mean(),
            right=exponents[right].mean(),
            wrong=exponents[~right].mean() if (~right).any() else np.nan,
            small_margin=exponents[near].mean(),
            correlation_with_margin=rank_correlation(exponents, margin),
            ridge=over[is_near].mean() - over[~is_near].mean() if is_near.any() else np.nan,
        )
    return {
        name: estimate([value for value in values if np.isfinite(value)] or [np.nan])._asdict()
        for name, values in columns.items()
    }


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's, in [-1, 1]."""
    result: Any = spearmanr(first, second)
    return float(result.statistic)


def boundary_distance(classes: np.ndarray) -> np.ndarray:
    """Distances i[n, n] to the nearest point of another class, f[n, n], in points of the map."""
    distance = np.full(classes.shape, np.inf)
    for own in np.unique(classes):
        inside = classes == own
        if not inside.all():
            distance = np.where(inside, np.asarray(distance_transform_edt(inside)), distance)
    return distance


def _line(row: dict[str, Any]) -> str:
    def shown(name: str) -> str:
        return "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**row[name])

    return (
        f"{row['task']}, width {row['width']}: accuracy {shown('accuracy')}; mean exponent where "
        f"right {shown('right')}, where wrong {shown('wrong')}, at small margins "
        f"{shown('small_margin')}; correlation with the margin {shown('correlation_with_margin')}; "
        f"ridge {shown('ridge')}"
    )
