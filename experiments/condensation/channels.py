"""Channels of a convolutional network, merged by direction, pruned, or merged by chance."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import runs
from experiments.condensation import convolutions, figure
from experiments.condensation.convolutions import Images
from experiments.condensation.reduction import Method, Reduction
from experiments.condensation.settings import Settings
from experiments.pieces import resumed
from experiments.statistics import paired_difference
from pfn_optax.align.scales import balancing_scales
from pfn_optax.paths import named_leaves
from pfn_optax.units import unit_spec

METHODS: tuple[Method, ...] = ("condense", "magnitude", "random")
_REFIT_BATCHES, _REFIT_BATCH = 4, 500
# What is left of a trained network is tuned more gently than one is trained from the start.
_TUNING = 0.25


def run(options: Settings) -> None:
    """Trains, reduces and tunes what is left to do in the run folder; prints, writes, draws."""
    images = convolutions.images_of(options.dataset, options.images)
    file, names = options.run_dir / "networks.jsonl", ("seed", "units", "method", "is_refit")
    wide, clusters, records = [], [], []
    for seed in range(options.seed, options.seed + options.starts):
        study = _Study(options, images, seed)
        wide.append({"seed": seed, "test_accuracy": study.accuracy(study.predicted)})
        clusters.append(study.num_clusters)
        ways = [
            (seed, size, method, is_refit)
            for size in options.sizes
            if study.reduction.fits(study.sizes(size))
            for is_refit in (False, True)
            for method in METHODS
        ]
        records += resumed(file, ways, study.record, names=names)
    rows = summarised(records)
    for row in rows:
        print("  " + _line(row))
    summary = {"config": options.config, "wide": wide, "clusters": clusters, "rows": rows}
    if options.json:
        runs.write_json(options.json, summary | {"networks": records})
    if options.plot:
        accuracy = float(np.mean([one["test_accuracy"] for one in wide]))
        figure.channels(records, accuracy, options.width, options.plot)


def summarised(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds of each way, and how far `condense` is above it, paired by seed.

    Args:
        records: of every seed, size, method and refit.

    Returns:
        One row per size, refit and method.
    """
    rows = []
    for size, is_refit in sorted({(one["units"], one["is_refit"]) for one in records})[::-1]:
        chosen = [one for one in records if (one["units"], one["is_refit"]) == (size, is_refit)]
        values = {
            method: {
                when: np.asarray([one[when]["test_accuracy"] for one in chosen
                                  if one["method"] == method])
                for when in ("at_once", "trained")
            }
            for method in METHODS
        }  # fmt: skip
        for method, own in values.items():
            row: dict[str, Any] = {"units": size, "is_refit": is_refit, "method": method}
            for when, accuracies in own.items():
                row[when] = float(accuracies.mean())
                if method != "condense":
                    gain = paired_difference(values["condense"][when], accuracies)
                    row[f"{when}_gain"] = list(gain)
            rows.append(row)
    return rows


class _Study:
    """One wide network and what becomes of it."""

    def __init__(self, options: Settings, images: Images, seed: int):
        self.options, self.images, self.seed = options, images, seed
        initial = convolutions.start(seed, images, options.width, options.scale)
        self.params = _kept(options.run_dir / f"wide-{seed}.npz", initial, lambda: self._train(
            initial, options.steps, options.learning_rate, f"seed {seed}: wide network"
        ))  # fmt: skip
        rows = images.x[: _REFIT_BATCHES * _REFIT_BATCH]
        batches = [
            (images.normalised(rows[place : place + _REFIT_BATCH]),)
            for place in range(0, len(rows), _REFIT_BATCH)
        ]
        spec = unit_spec(convolutions.network, self.params, batches[0][0][:1], check=False)
        self.reduction = Reduction(
            self.params,
            spec,
            convolutions.network,
            batches,
            similarity=options.similarity,
            amplitude=options.amplitude,
        )
        self.predicted = convolutions.predicted(self.params, images)

    @property
    def num_clusters(self) -> dict[str, dict[str, int]]:
        """By layer, what similarity alone would make of it."""
        return {
            group.name: {
                "units": group.size,
                "removed": len(self.reduction.clusters[group.name].removed),
                "clusters": len(self.reduction.clusters[group.name].kept),
            }
            for group in self.reduction.spec.groups
        }

    def sizes(self, size: int) -> dict[str, int]:
        """The width of every layer if the first has so many channels."""
        groups = self.reduction.spec.groups
        return {group.name: max(1, group.size * size // self.options.width) for group in groups}

    def record(self, seed: int, size: int, method: Method, is_refit: bool) -> dict[str, Any]:
        """One smaller network, at once and after tuning."""
        small, spec = self.reduction.small(self.sizes(size), method, draw=seed, is_refit=is_refit)
        at_once = self._measured(small)
        # With |a| = |w| for every unit, as trained networks have; the function is the same.
        scales = balancing_scales(spec, jax.tree.map(lambda leaf: np.asarray(leaf, float), small))
        tuned = self._train(
            spec.rescale(small, scales),
            self.options.more_steps,
            _TUNING * self.options.learning_rate,
            method,
        )
        return {"at_once": at_once, "trained": self._measured(tuned)}

    def accuracy(self, predicted: np.ndarray) -> float:
        """On the test images."""
        return float((predicted == self.images.test_y).mean())

    def _measured(self, params: Any) -> dict[str, float]:
        predicted = convolutions.predicted(params, self.images)
        return {
            "test_accuracy": self.accuracy(predicted),
            "agreement": float((predicted == self.predicted).mean()),
        }

    def _train(self, params: Any, steps: int, rate: float, description: str) -> Any:
        return convolutions.train(
            params,
            self.images,
            steps=steps,
            learning_rate=rate,
            seed=self.seed,
            description=description,
        )


def _kept(file: Path, like: Any, make: Callable[[], Any]) -> Any:
    """A tree from its file, made and written where that is not there."""
    if not file.exists():
        arrays = {"/".join(path): np.asarray(leaf) for path, leaf in named_leaves(make())}
        partial = file.with_suffix(".partial.npz")
        np.savez(partial, **arrays)  # pyright: ignore[reportArgumentType]
        partial.replace(file)
    with np.load(file) as arrays:
        leaves = [arrays["/".join(path)] for path, _ in named_leaves(like)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _line(row: dict[str, Any]) -> str:
    name = row["method"] + (", refit" if row["is_refit"] else "")
    return (
        f"{row['units']} channels, {name}: accuracy {row['at_once']:.2%}, "
        f"tuned {row['trained']:.2%}"
    )
