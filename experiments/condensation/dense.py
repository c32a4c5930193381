"""Train a wide network, condense it, go on training, and compare what both predict."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments import runs
from experiments.condensation import figure
from experiments.condensation.networks import Data, data, descend, network, squared_error, start
from experiments.errors import UsageError
from pfn_optax.align.scales import balancing_scales
from pfn_optax.landscape import Clusters, condense
from pfn_optax.landscape.clusters import clusters_of, cosines, directions
from pfn_optax.landscape.refit import Refit
from pfn_optax.paths import named_leaves
from pfn_optax.units import UnitSpec, merge_units, unit_spec

# What the original study has of 400 units, and the share of test images on which both nets agree.
_SEED = {"units": 58, "agreement": 0.985}
_RANDOM_DRAWS = 5
_RIDGE = 1e-6

Method = Literal["condense", "magnitude", "random"]


@dataclasses.dataclass(frozen=True)
class CondenseExperiment:
    """Replace units that point the same way by one, against pruning and merging at random."""

    dataset: Literal["mnist", "digits"] = "mnist"
    """What to learn."""
    images: int = 1000
    """The first so many training images."""
    width: int = 400
    """Hidden units."""
    scale: float = 1e-17
    """Standard deviation of the initial weights; the smaller, the more the units condense."""
    steps: int = 1000
    """Steps of gradient descent before condensing."""
    more_steps: int = 500
    """Steps at most to bring a smaller network to the loss of the wide one."""
    learning_rate: float = 0.5
    """Of gradient descent."""
    similarity: float = 0.9
    """The least cosine between units that are merged."""
    amplitude: float = 0.05
    """Units of at most this share of the largest |a| |w| are removed."""
    sizes: tuple[int, ...] = (10, 20, 40, 58, 100)
    """Further widths to condense to, as far as there are so many units."""
    seed: int = 0
    """Of the initial weights."""
    json: Path | None = None
    """Where to write the numbers, if anywhere."""
    plot: Path | None = None
    """Where to draw them as a PNG, if anywhere."""
    run_dir: Path = Path("runs/condense")
    """The wide network and what became of it; resumed where it was left."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        if min(self.images, self.width, self.steps, self.more_steps, *self.sizes) < 1:
            raise UsageError("images, width, steps, more-steps and sizes must be positive")
        if not (self.scale > 0 and self.learning_rate > 0):
            raise UsageError(
                f"scale and learning-rate must be positive; got {self.scale}, {self.learning_rate}"
            )

    @property
    def config(self) -> dict[str, Any]:
        """What determines the results."""
        config = dataclasses.asdict(self)
        for name in ("json", "plot", "run_dir", "overwrite"):
            del config[name]
        return config | {"sizes": list(self.sizes)}

    def run(self) -> None:
        """Train and compare what is left to do in the run folder; print, write and draw."""
        runs.open_run(self.run_dir, self.config, overwrite=self.overwrite)
        images = data(self.dataset, self.images)
        params, losses = self._wide(images)
        spec = unit_spec(network, params, images.x[:1], check=False)
        comparison = _Comparison(params, spec, images, self)
        clusters = comparison.clusters
        print(
            f"loss {losses[-1]:.5f} after {self.steps} steps: {len(clusters.removed)} of "
            f"{self.width} units removed, the others in {len(clusters.kept)} clusters"
        )
        records = self._records(comparison)
        for one in records:
            print("  " + _line(one))
        wide = comparison.measured(params)
        summary = {
            "config": self.config,
            "original": _SEED,
            "wide": wide | {"loss": float(losses[-1]), "units": self.width},
            "removed": len(clusters.removed),
            "clusters": len(clusters.kept),
            "largest_clusters": sorted(map(len, clusters.members), reverse=True)[:10],
        }
        if self.json:
            drawn = ("losses", "pairs")
            rows = [{k: v for k, v in one.items() if k not in drawn} for one in records]
            runs.write_json(self.json, summary | {"networks": rows})
        if self.plot:
            incoming = directions(spec.groups[0], comparison.leaves)[0]
            order = [unit for units in clusters.members for unit in units] + [*clusters.removed]
            figure.condensation(
                losses,
                cosines(incoming[order]),
                cosines(incoming[clusters.kept]),
                len(clusters.removed),
                records[0],
                self.plot,
            )

    def _wide(self, images: Data) -> tuple[dict[str, Any], np.ndarray]:
        """The wide network and its losses, from the run folder where it is there."""
        file = self.run_dir / "wide.npz"
        if not file.exists():
            initial = start(self.seed, images.x.shape[1], self.width, images.y.shape[1], self.scale)
            params, losses = descend(
                initial,
                images,
                steps=self.steps,
                learning_rate=self.learning_rate,
                description="wide network",
            )
            partial = file.with_suffix(".partial.npz")
            np.savez(partial, losses=losses, **jax.tree.map(np.asarray, params))
            partial.replace(file)
        with np.load(file) as arrays:
            params = {name: arrays[name] for name in ("w", "b", "a")}
            return params, arrays["losses"]

    def _records(self, comparison: "_Comparison") -> list[dict[str, Any]]:
        """One record per smaller network, from the file where it is there."""
        file = self.run_dir / "networks.jsonl"
        size = len(comparison.clusters.kept)
        most = self.width - len(comparison.clusters.removed)
        others = [other for other in self.sizes if other != size and other <= most]
        keys: list[tuple[int, Method, int, bool]]
        keys = [(units, *way) for units in (size, *others) for way in _WAYS]
        records = {
            (one["units"], one["method"], one["draw"], one["is_refit"]): one
            for one in runs.read_lines(file)
        }
        whole = file.read_bytes().rfind(b"\n") + 1 if file.exists() else 0
        with runs.LineLog(file, keep_bytes=whole) as log:
            for key in tqdm(keys, desc="smaller networks", unit=" networks"):
                if key not in records:
                    records[key] = comparison.record(*key)
                    log.write(records[key])
        return [records[key] for key in keys]


_DRAWS: dict[Method, int] = {"condense": 1, "magnitude": 1, "random": _RANDOM_DRAWS}
# Method, number of the random draw, whether the outgoing weights are refitted.
_WAYS: list[tuple[Method, int, bool]] = [
    (method, draw, is_refit)
    for is_refit in (False, True)
    for method, num_draws in _DRAWS.items()
    for draw in range(num_draws)
]


class _Comparison:
    """Smaller networks beside the wide one."""

    def __init__(self, params: Any, spec: UnitSpec, images: Data, options: CondenseExperiment):
        self.params, self.spec, self.images, self.options = params, spec, images, options
        [self.group] = spec.groups
        self.leaves = {path: np.asarray(leaf) for path, leaf in named_leaves(params)}
        incoming, outgoing = directions(self.group, self.leaves)
        self.norms = np.linalg.norm(incoming, axis=1)
        self.amplitudes = self.norms * np.linalg.norm(outgoing, axis=1)
        self.clusters = self._clusters(None)
        self.refit = Refit(network, params, [(jnp.asarray(images.x),)])
        self.predicted = self._predicted(params)

    def record(self, size: int, method: Method, draw: int, is_refit: bool) -> dict[str, Any]:
        """One smaller network, at once and when it has been trained to the loss of the wide one."""
        small, spec = self._small(size, method, draw, is_refit)
        at_once = self.measured(small)
        # With |a| = |w| for every unit, as in the wide network. One unit in the place of many has
        # large outgoing weights, and the loss is so steep in its incoming ones that gradient
        # descent would diverge.
        scales = balancing_scales(spec, jax.tree.map(lambda leaf: np.asarray(leaf, float), small))
        goal = self.measured(self.params)["loss"]
        small, losses = descend(
            spec.rescale(small, scales),
            self.images,
            steps=self.options.more_steps,
            learning_rate=self.options.learning_rate,
            until=goal,
            description=method,
        )
        training = {"steps": len(losses) - 1, "is_reached": bool(losses[-1] <= goal)}
        return {
            "units": size,
            "method": method,
            "draw": draw,
            "is_refit": is_refit,
            "at_once": at_once,
            "trained": self.measured(small) | training,
            "losses": losses.tolist(),
            "pairs": self._pairs(small),
        }

    def measured(self, params: Any) -> dict[str, float]:
        """The training loss, the accuracy on test images and the agreement with the wide net."""
        predicted = self._predicted(params)
        loss = squared_error(network(params, self.images.x), self.images.y)
        return {
            "loss": float(loss),
            "test_accuracy": float((predicted == self.images.test_labels).mean()),
            "agreement": float((predicted == self.predicted).mean()),
        }

    def _small(self, size: int, method: Method, draw: int, is_refit: bool) -> tuple[Any, UnitSpec]:
        options, name = self.options, self.group.name
        if method == "condense":
            # The size that similarity makes is not asked for: clusters are what is merged there.
            found = self.clusters if size == len(self.clusters.kept) else self._clusters(size)
            target = None if found is self.clusters else size
            data_of = {"function": network, "batches": [(jnp.asarray(self.images.x),)]}
            small = condense(
                self.params,
                self.spec,
                similarity=options.similarity,
                amplitude=options.amplitude,
                sizes={name: target},
                ridge=_RIDGE,
                **(data_of if is_refit else {}),
            )
            return small.params, small.spec
        order = np.argsort(-self.amplitudes)
        clusters = [order[place : place + 1] for place in range(size)]
        if method == "random":
            clusters = self._random_clusters(size, draw)
        kept = np.asarray([units[0] for units in clusters])
        mixing = np.zeros((size, self.group.size))
        for row, units in enumerate(clusters):
            mixing[row, units] = self.norms[units] / self.norms[units[0]]
        if is_refit:
            mixing = self.refit.mixing(name, kept, mixing, _RIDGE)
        return merge_units(self.spec, self.params, {name: kept}, {name: mixing})

    def _random_clusters(self, size: int, draw: int) -> list[np.ndarray]:
        """The units that are not removed, in clusters by chance; the largest of each is first."""
        random = np.random.default_rng(draw)
        units = random.permutation(np.setdiff1d(np.arange(self.group.size), self.clusters.removed))
        labels = np.concatenate([np.arange(size), random.integers(0, size, len(units) - size)])
        order = np.argsort(-self.amplitudes[units])
        units, labels = units[order], labels[order]
        return [units[labels == label] for label in range(size)]

    def _clusters(self, size: int | None) -> Clusters:
        return clusters_of(
            self.group,
            self.leaves,
            similarity=self.options.similarity,
            amplitude=self.options.amplitude,
            size=size,
        )

    def _predicted(self, params: Any) -> np.ndarray:
        return np.asarray(network(params, self.images.test_x).argmax(-1))

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
