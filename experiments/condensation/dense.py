"""Train a wide network, condense it, go on training, and compare what both predict."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runs
from experiments.condensation import figure
from experiments.condensation.networks import (
    NETWORKS,
    Data,
    data,
    descend,
    squared_error,
    start,
)
from experiments.condensation.reduction import Method, Reduction
from experiments.condensation.settings import Settings
from experiments.pieces import resumed
from pfn_optax.align.scales import balancing_scales
from pfn_optax.landscape.clusters import cosines, directions
from pfn_optax.units import unit_spec

# What the original study has of 400 units, and the share of test images on which both nets agree.
_SEED = {"units": 58, "agreement": 0.985}
_RANDOM_DRAWS = 5
_DRAWS: dict[Method, int] = {"condense": 1, "magnitude": 1, "random": _RANDOM_DRAWS}


def run(options: Settings) -> None:
    """Trains and compares what is left to do in the run folder; prints, writes and draws."""
    images = data(options.dataset, options.images)
    params, losses = _wide(options, images)
    comparison = _Comparison(params, images, options)
    clusters = comparison.clusters
    print(
        f"loss {losses[-1]:.5f} after {options.steps} steps: {len(clusters.removed)} of "
        f"{options.width} units removed, the others in {len(clusters.kept)} clusters"
    )
    records = _records(options, comparison)
    for one in records:
        print("  " + _line(one))
    wide = comparison.measured(params)
    summary = {
        "config": options.config,
        "original": _SEED,
        "wide": wide | {"loss": float(losses[-1]), "units": options.width},
        "removed": len(clusters.removed),
        "clusters": len(clusters.kept),
        "largest_clusters": sorted(map(len, clusters.members), reverse=True)[:10],
    }
    if options.json:
        drawn = ("losses", "pairs")
        rows = [{k: v for k, v in one.items() if k not in drawn} for one in records]
        runs.write_json(options.json, summary | {"networks": rows})
    if options.plot:
        [group] = comparison.reduction.spec.groups
        incoming = directions(group, comparison.reduction.leaves)[0]
        order = [unit for units in clusters.members for unit in units] + [*clusters.removed]
        figure.condensation(
            losses,
            cosines(incoming[order]),
            cosines(incoming[clusters.kept]),
            len(clusters.removed),
            records[0],
            options.plot,
        )


def _wide(options: Settings, images: Data) -> tuple[dict[str, Any], np.ndarray]:
    """The wide network and its losses, from the run folder where it is there."""
    file = options.run_dir / "wide.npz"
    if not file.exists():
        sizes = images.x.shape[1], options.width, images.y.shape[1]
        params, losses = descend(
            start(options.seed, *sizes, options.scale),
            images,
            options.activation,
            steps=options.steps,
            learning_rate=options.learning_rate,
            description="wide network",
        )
        partial = file.with_suffix(".partial.npz")
        np.savez(partial, losses=losses, **jax.tree.map(np.asarray, params))
        partial.replace(file)
    with np.load(file) as arrays:
        params = {name: arrays[name] for name in ("w", "b", "a")}
        return params, arrays["losses"]


def _records(options: Settings, comparison: "_Comparison") -> list[dict[str, Any]]:
    """One record per smaller network, from the file where it is there."""
    size = len(comparison.clusters.kept)
    most = options.width - len(comparison.clusters.removed)
    others = [other for other in options.sizes if other != size and other <= most]
    return resumed(
        options.run_dir / "networks.jsonl",
        [(units, *way) for units in (size, *others) for way in comparison.ways],
        comparison.record,
        names=("units", "method", "draw", "is_refit"),
    )


class _Comparison:
    """Smaller networks beside the wide one."""

    def __init__(self, params: Any, images: Data, options: Settings):
        self.params, self.images, self.options = params, images, options
        self.network = NETWORKS[options.activation]
        self.reduction = Reduction(
            params,
            unit_spec(self.network, params, images.x[:1], check=False),
            self.network,
            [(jnp.asarray(images.x),)],
            similarity=options.similarity,
            amplitude=options.amplitude,
        )
        [(self.name, self.clusters)] = self.reduction.clusters.items()
        self.predicted = self._predicted(params)

    @property
    def ways(self) -> list[tuple[Method, int, bool]]:
        """Method, number of the random draw, whether the outgoing weights are refitted."""
        return [
            (method, draw, is_refit)
            for is_refit in ((False, True) if self.reduction.can_sum else (True,))
            for method, num_draws in _DRAWS.items()
            for draw in range(num_draws)
        ]

    def record(self, size: int, method: Method, draw: int, is_refit: bool) -> dict[str, Any]:
        """One smaller network, at once and when it has been trained to the loss of the wide one."""
        small, spec = self.reduction.small({self.name: size}, method, draw=draw, is_refit=is_refit)
        at_once = self.measured(small)
        # With |a| = |w| for every unit, as in the wide network. One unit in the place of many has
        # large outgoing weights, and the loss is so steep in its incoming ones that gradient
        # descent would diverge. Units that are not homogeneous have no such scale.
        scales = balancing_scales(spec, jax.tree.map(lambda leaf: np.asarray(leaf, float), small))
        goal = self.measured(self.params)["loss"]
        small, losses = descend(
            spec.rescale(small, scales),
            self.images,
            self.options.activation,
            steps=self.options.more_steps,
            learning_rate=self.options.learning_rate,
            until=goal,
            description=method,
        )
        training = {"steps": len(losses) - 1, "is_reached": bool(losses[-1] <= goal)}
        return {
            "at_once": at_once,
            "trained": self.measured(small) | training,
            "losses": losses.tolist(),
            "pairs": self._pairs(small),
        }

    def measured(self, params: Any) -> dict[str, float]:
        """The training loss, the accuracy on test images and the agreement with the wide net."""
        predicted = self._predicted(params)
        loss = squared_error(self.network(params, self.images.x), self.images.y)
        return {
            "loss": float(loss),
            "test_accuracy": float((predicted == self.images.test_labels).mean()),
            "agreement": float((predicted == self.predicted).mean()),
        }

    def _predicted(self, params: Any) -> np.ndarray:
        return np.asarray(self.network(params, self.images.test_x).argmax(-1))

    def _pairs(self, params: Any) -> list[list[int]]:
        """How often the wide network predicts a class (row) and the small one another (column)."""
        classes = self.images.y.shape[1]
        counts = np.zeros((classes, classes), int)
        np.add.at(counts, (self.predicted, self._predicted(params)), 1)
        return counts.tolist()


def _line(record: dict[str, Any]) -> str:
    name = record["method"] + (", refit" if record["is_refit"] else "")
    text = "{units} units, {name}: loss {loss:.5f}, agreement {agreement:.2%}".format(
        units=record["units"], name=name, **record["at_once"]
    )
    return text + "; after {steps} steps {loss:.5f}, {agreement:.2%}".format(**record["trained"])
