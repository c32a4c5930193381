"""The command for residual networks: pairs with batch norm, with and without new statistics."""

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from experiments import runs
from experiments.data import DatasetName, load
from experiments.errors import UsageError
from experiments.merge import figure, summary
from experiments.merge.paths import batches_of, to_json
from experiments.merge.resnet import ResNet, train
from pfn_optax.align import align, loss_barrier, reestimate_batch_stats
from pfn_optax.paths import named_leaves
from pfn_optax.units import UnitSpec, unit_spec


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
        records = self._records(self.run_dir / "pairs.jsonl")
        rows = summary.by_width(records)
        print(summary.text(rows))
        if self.json:
            runs.write_json(self.json, {"config": config | {"pairs": self.pairs}, "rows": rows})
        if self.plot:
            title = f"{self.dataset}, ResNet-8 of width {self.width}, {self.epochs} epochs"
            figure.line(records[0]["arms"], title, self.plot)

    def _records(self, file: Path) -> list[summary.Record]:
        """One record per pair, from the file where it is there."""
        records = {one["pair"]: one for one in runs.read_lines(file)}
        missing = [pair for pair in range(self.pairs) if pair not in records]
        if missing:
            dataset = load(self.dataset, self.data_dir)
            network = ResNet(dataset, self.width)
            batches = batches_of(dataset, self.num_images)
            spec = unit_spec(network.logits, network.init(0), batches["test"][0][0][:2])
            # A last line cut short by a crash was not read, and is cut off.
            whole = file.read_bytes().rfind(b"\n") + 1 if file.exists() else 0
            with runs.LineLog(file, keep_bytes=whole) as log:
                for pair in tqdm(missing, desc="pairs of ResNets", unit=" pairs"):
                    started = time.perf_counter()
                    a, b = (
                        train(
                            network,
                            dataset,
                            seed=seed,
                            epochs=self.epochs,
                            num_images=self.num_train,
                        )
                        for seed in (2 * pair, 2 * pair + 1)
                    )
                    jax.block_until_ready((a, b))
                    trained = time.perf_counter()
                    found = self._curves(network, spec, a, b, batches)
                    seconds = {
                        "training": trained - started,
                        "measuring": time.perf_counter() - trained,
                    }
                    records[pair] = {
                        "width": self.width,
                        "pair": pair,
                        "seconds": seconds,
                        **found,
                    }
                    log.write(records[pair])
        return [records[pair] for pair in range(self.pairs)]

    def _curves(
        self, network: ResNet, spec: UnitSpec, a: Any, b: Any, batches: dict[str, Any]
    ) -> dict[str, Any]:
        # Weights alone are matched; running variances are large numbers that would outvote them.
        statistics = {path: 0.0 for path, _ in named_leaves(a) if path[-1] in ("mean", "var")}
        matched = align(a, b, spec, objective=statistics)
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
