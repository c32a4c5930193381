"""The command for MLPs: train pairs of each width, align, measure; one line on disk per pair."""

import dataclasses
import functools
import sys
import time
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runs
from experiments.data import Dataset, load
from experiments.errors import DataUnavailableError, UsageError
from experiments.merge import figure, mlp, summary
from experiments.merge.paths import batches_of, to_json
from experiments.mlp import init, logits
from experiments.pieces import resumed
from pfn_optax.align import align, loss_barrier, repair
from pfn_optax.units import UnitSpec, unit_spec


@dataclasses.dataclass(frozen=True)
class MergeMLPExperiment:
    """Loss barriers between pairs of MLPs against their width: naive, aligned, repaired."""

    widths: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)
    """Units of both hidden layers."""
    pairs: int = 5
    """Pairs of networks of each width, each from two seeds of its own."""
    epochs: int = 5
    """Passes over the training images, by Adam."""
    dataset: Literal["mnist", "digits"] = "mnist"
    """What to train on; digits if MNIST is not there."""
    data_dir: Path | None = None
    """TFDS data directory. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    num_points: int = 11
    """Points on each line, an odd number."""
    num_images: int = 10_000
    """Training images, and test images, that losses are measured on; half the training images are
    for the statistics of REPAIR."""
    path_width: int = 512
    """Of which width to draw the line of the first pair."""
    json: Path | None = None
    """Where to write the results, if anywhere."""
    plot: Path | None = None
    """Where to draw barriers against widths as a PNG, if anywhere."""
    path_plot: Path | None = None
    """Where to draw the line of `path_width`, if anywhere."""
    run_dir: Path = Path("runs/merge-mlp")
    """Curves of each pair; resumed where it was left, also with more pairs or widths."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        if self.pairs < 2:
            raise UsageError(f"pairs must be at least 2, for an interval; got {self.pairs}")
        if self.num_points < 3 or self.num_points % 2 == 0:
            raise UsageError(f"num_points must be odd and at least 3; got {self.num_points}")
        if not self.widths or min(self.widths) < 2:
            raise UsageError(f"widths must be at least 2; got {self.widths}")
        if self.path_plot and self.path_width not in self.widths:
            raise UsageError(f"path_width must be one of the widths; got {self.path_width}")

    def run(self) -> None:
        """Do what is left to do in the run folder, then print, write and draw the barriers."""
        dataset = self._load()
        config = {
            "dataset": dataset.name,
            "epochs": self.epochs,
            "num_points": self.num_points,
            "num_images": self.num_images,
        }
        runs.open_run(self.run_dir, config, overwrite=self.overwrite)
        pieces = [(width, pair) for pair in range(self.pairs) for width in self.widths]
        records = resumed(
            self.run_dir / "pairs.jsonl",
            pieces,
            functools.partial(self._record, dataset=dataset),
            names=("width", "pair"),
        )
        rows = summary.by_width(records)
        print(summary.text(rows))
        if self.json:
            config |= {"widths": list(self.widths), "pairs": self.pairs}
            runs.write_json(self.json, {"config": config, "rows": rows})
        if self.plot:
            figure.barriers(rows, self.plot)
        if self.path_plot:
            first = next(record for record in records if record["width"] == self.path_width)
            title = f"{dataset.name}, 2 hidden layers of {self.path_width} units"
            figure.line(first["arms"], title, self.path_plot)

    def _load(self) -> Dataset:
        try:
            return load(self.dataset, self.data_dir)
        except DataUnavailableError as error:
            print(f"{error}\nGoing on with the digits of scikit-learn instead.", file=sys.stderr)
            return load("digits")

    def _record(self, width: int, pair: int, *, dataset: Dataset) -> dict[str, Any]:
        started = time.perf_counter()
        images, labels = _training_arrays(dataset)
        a, b = (
            mlp.train(
                seed, width, images, labels, epochs=self.epochs, num_classes=dataset.num_classes
            )
            for seed in (2 * pair, 2 * pair + 1)
        )
        jax.block_until_ready((a, b))
        trained = time.perf_counter()
        spec = _spec(width, images.shape[1], dataset.num_classes)
        matched = align(a, b, spec)
        rescaled = align(a, b, spec, rescale=True)
        aligned = time.perf_counter()

        batches = batches_of(dataset, self.num_images, flat=True)
        half = [(x,) for x, _ in batches["train"][: max(len(batches["train"]) // 2, 1)]]

        def repaired(params: Any, t: float) -> Any:
            models = (a, matched.params)
            return repair(logits, params, models, half, spec, weights=(1 - t, t))

        arms = {
            "naive": (b, None),
            "matched": (matched.params, None),
            "matched, rescaled": (rescaled.params, None),
            "matched, REPAIR": (matched.params, repaired),
        }
        measure = functools.partial(
            loss_barrier, mlp.cross_entropy, a, batches=batches, num_points=self.num_points
        )
        curves = {arm: measure(end, correction=change) for arm, (end, change) in arms.items()}
        return {
            "squared distance": {"before": matched.before, "after": matched.after},
            "seconds": {
                "training": trained - started,
                "aligning": aligned - trained,
                "measuring": time.perf_counter() - aligned,
            },
            "arms": {arm: to_json(own) for arm, own in curves.items()},
        }


@functools.cache
def _spec(width: int, num_inputs: int, num_classes: int) -> UnitSpec:
    params = init(jax.random.key(0), (num_inputs, width, width, num_classes))
    return unit_spec(logits, params, jnp.ones((1, num_inputs)))


def _training_arrays(dataset: Dataset) -> tuple[jax.Array, jax.Array]:
    images = np.float32(dataset.train_images.reshape(len(dataset.train_images), -1) / 255)
    return jnp.asarray(images), jnp.asarray(dataset.train_labels)
