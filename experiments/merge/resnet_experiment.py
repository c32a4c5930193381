"""The command for residual networks: pairs with batch norm, with and without new statistics."""

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments import runs
from experiments.data import Dataset, DatasetName, load
from experiments.errors import UsageError
from experiments.merge import figure, summary
from experiments.merge.paths import batches_of, to_json
from experiments.merge.resnet import ResNet, train
from experiments.pieces import resumed
from pfn_optax.align import align, loss_barrier, reestimate_batch_stats
from pfn_optax.paths import named_leaves
from pfn_optax.units import UnitSpec, unit_spec


class _Study(NamedTuple):
    """What pairs are trained on and measured by."""

    dataset: Dataset
    network: ResNet
    batches: dict[str, Any]
    spec: UnitSpec


@dataclasses.dataclass(frozen=True)
class MergeResNetExperiment:
    """Loss barriers between pairs of ResNet-8: naive, aligned, with batch statistics measured anew.

    A few epochs on a CPU, so these are no good networks.
    """

    width: int = 16
    """Channels of the first stage."""
    pairs: int = 3
    """Pairs of networks, each from two seeds of its own; one pair has no interval."""
    epochs: int = 2
    """Passes over the training images, by Adam."""
    num_train: int = 50_000
    """Training images used."""
    dataset: DatasetName = "cifar10"
    """What to train on."""
    data_dir: Path | None = None
    """TFDS data directory. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    num_points: int = 11
    """Points on each line, an odd number."""
    num_images: int = 2_000
    """Training images, and test images, that losses are measured on; the training images are also
    for the statistics."""
    json: Path | None = None
    """Where to write the results, if anywhere."""
    plot: Path | None = None
    """Where to draw the line of the first pair as a PNG, if anywhere."""
    run_dir: Path = Path("runs/merge-resnet")
    """Curves of each pair; resumed where it was left, also with more pairs."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        if self.pairs < 1:
            raise UsageError(f"pairs must be at least 1; got {self.pairs}")
        if self.num_points < 3 or self.num_points % 2 == 0:
            raise UsageError(f"num_points must be odd and at least 3; got {self.num_points}")

    def run(self) -> None:
        """Do what is left to do in the run folder, then print, write and draw the barriers."""
        config = {
            "dataset": self.dataset,
            "width": self.width,
            "epochs": self.epochs,
            "num_train": self.num_train,
            "num_points": self.num_points,
            "num_images": self.num_images,
        }
        runs.open_run(self.run_dir, config, overwrite=self.overwrite)
        pieces = [(self.width, pair) for pair in range(self.pairs)]
        file, names = self.run_dir / "pairs.jsonl", ("width", "pair")
        records = resumed(file, pieces, self._record, names=names)
        rows = summary.by_width(records)
        print(summary.text(rows))
        if self.json:
            runs.write_json(self.json, {"config": config | {"pairs": self.pairs}, "rows": rows})
        if self.plot:
            title = f"{self.dataset}, ResNet-8 of width {self.width}, {self.epochs} epochs"
            figure.line(records[0]["arms"], title, self.plot)

    @functools.cached_property
    def _study(self) -> _Study:
        """Loaded only where there is a pair left to train."""
        dataset = load(self.dataset, self.data_dir)
        network = ResNet(dataset, self.width)
        batches = batches_of(dataset, self.num_images)
        spec = unit_spec(network.logits, network.init(0), batches["test"][0][0][:2])
        return _Study(dataset, network, batches, spec)

    def _record(self, width: int, pair: int) -> dict[str, Any]:
        assert width == self.width
        study, started = self._study, time.perf_counter()
        a, b = (
            train(
                study.network,
                study.dataset,
                seed=seed,
                epochs=self.epochs,
                num_images=self.num_train,
            )
            for seed in (2 * pair, 2 * pair + 1)
        )
        jax.block_until_ready((a, b))
        trained = time.perf_counter()
        found = self._curves(study, a, b)
        seconds = {"training": trained - started, "measuring": time.perf_counter() - trained}
        return {"seconds": seconds, **found}

    def _curves(self, study: _Study, a: Any, b: Any) -> dict[str, Any]:
        network, batches = study.network, study.batches
        # Weights alone are matched; running variances are large numbers that would outvote them.
        statistics = {path: 0.0 for path, _ in named_leaves(a) if path[-1] in ("mean", "var")}
        matched = align(a, b, study.spec, objective=statistics)
        images = [(x,) for x, _ in batches["train"]]

        def measured(state: Any, t: float) -> Any:
            del t
            return reestimate_batch_stats(network.logits, state, images)

        arms = {
            "naive": (b, None),
            "naive, new statistics": (b, measured),
            "matched": (matched.params, None),
            "matched, new statistics": (matched.params, measured),
        }
        measure = functools.partial(
            loss_barrier, network.cross_entropy, a, batches=batches, num_points=self.num_points
        )
        curves = {arm: measure(end, correction=change) for arm, (end, change) in arms.items()}
        return {
            "squared distance": {"before": matched.before, "after": matched.after},
            "arms": {arm: to_json(own) for arm, own in curves.items()},
        }
