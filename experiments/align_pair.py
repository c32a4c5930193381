"""The command: match a pair of small MLPs by every method, beside the study that began with it.

The study (a 784-64-24-10 ReLU MLP on MNIST, hidden units matched by assignments and a beam over
shuffled ties) reports the standardised objective of its own pair; its rows stand beside ours.
"""

import dataclasses
import functools
import itertools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.data import load
from experiments.errors import UsageError
from pfn_optax.align import Alignment, align, distance
from pfn_optax.units import UnitSpec, unit_spec

HIDDEN = (64, 24)
WIDTHS = (1, 10, 50, 100)
RESTARTS = 50
BATCH_SIZE = 128
# Of the study's table: its metric (10.56 unaligned) and seconds by beam width.
STUDY = {1: (9.68, 11), 10: (7.39, 102), 50: (6.54, 445), 100: (6.47, 876)}

Params = dict[str, dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class AlignPairExperiment:
    """Match two MLPs by permuting hidden units, with every method and beam width."""

    pair: Path | None = None
    """Networks as an .npz with a/fc1.weight (outputs, inputs), a/fc1.bias, ..., b/fc3.bias.
    Default: a pair trained here, on MNIST if $TFDS_DATA_DIR is set, else on digits."""
    epochs: int = 5
    """Of training a pair."""
    seed: int = 0
    """Of training a pair; the second network has the next one."""
    json: Path | None = None
    """Where to write the table, if anywhere."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        if self.epochs < 1:
            raise UsageError(f"epochs must be at least 1; got {self.epochs}")

    def run(self) -> None:
        """Match, print the table and write it."""
        a, b, source = self._pair()
        inputs = jnp.zeros((1, a["fc1"]["weight"].shape[1]))
        spec = unit_spec(logits, a, inputs)
        rows = [_random_row(a, b, spec)]
        rows += [
            _row(name, a, b, spec, objective, options) for name, objective, options in _methods()
        ]
        print(f"pair: {json.dumps(source)}")
        print(table(rows))
        if self.json:
            self.json.write_text(json.dumps({"pair": source, "rows": rows}, indent=2) + "\n")

    def _pair(self) -> tuple[Params, Params, dict[str, Any]]:
        if self.pair is not None:
            return *read_pair(self.pair), {"file": self.pair.name}
        dataset = "mnist" if os.environ.get("TFDS_DATA_DIR") else "digits"
        trained = [train(dataset, self.seed + number, self.epochs) for number in range(2)]
        (a, one), (b, other) = trained
        source = {"dataset": dataset, "epochs": self.epochs, "test_accuracy": [one, other]}
        return a, b, source


def read_pair(file: Path) -> tuple[Params, Params]:
    """Read two networks.

    Args:
        file: An .npz as the command takes it.

    Returns:
        The parameters of both.

    Raises:
        UsageError: If the file cannot be read or lacks an array.
    """
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
    except (OSError, ValueError) as error:
        raise UsageError(f"--pair {file} is no .npz that can be read: {error}") from error
    wanted = [f"fc{layer}.{kind}" for layer in (1, 2, 3) for kind in ("weight", "bias")]
    missing = [name for side in "ab" for leaf in wanted if (name := f"{side}/{leaf}") not in arrays]
    if missing:
        raise UsageError(f"--pair {file} lacks {', '.join(missing)}")
    a, b = (
        {
            f"fc{layer}": {kind: arrays[f"{side}/fc{layer}.{kind}"] for kind in ("weight", "bias")}
            for layer in (1, 2, 3)
        }
        for side in "ab"
    )
    return a, b


def logits(params: Any, inputs: jax.Array) -> jax.Array:
    """Compute the three-layer ReLU MLP: `f[batch, inputs]` to `f[batch, 10]`."""
    for layer in ("fc1", "fc2"):
        inputs = jax.nn.relu(inputs @ params[layer]["weight"].T + params[layer]["bias"])
    return inputs @ params["fc3"]["weight"].T + params["fc3"]["bias"]


def train(dataset: Any, seed: int, epochs: int) -> tuple[Params, float]:
    """Train a network with Adam.

    Args:
        dataset: Name of the data set.
        seed: Of the initial weights and of the order of the images.
        epochs: Passes over the data.

    Returns:
        The parameters and the accuracy on the test images.
    """
    data = load(dataset)
    images, tests = (
        (part.reshape(len(part), -1) / 255).astype(np.float32)
        for part in (data.train_images, data.test_images)
    )
    generator = np.random.default_rng(seed)
    params = _init((images.shape[1], *HIDDEN, data.num_classes), generator)
    num_batches = len(images) // BATCH_SIZE
    order = np.concatenate(
        [generator.permutation(len(images))[: num_batches * BATCH_SIZE] for _ in range(epochs)]
    )
    params = _fit(params, images, data.train_labels, order.reshape(-1, BATCH_SIZE))
    accuracy = np.mean(np.argmax(logits(params, jnp.asarray(tests)), axis=1) == data.test_labels)
    return jax.tree.map(np.asarray, params), float(accuracy)


def _init(sizes: tuple[int, ...], generator: np.random.Generator) -> Params:
    params = {}
    for layer, (before, after) in enumerate(itertools.pairwise(sizes)):
        bound = before**-0.5
        params[f"fc{layer + 1}"] = {
            "weight": np.float32(generator.uniform(-bound, bound, (after, before))),
            "bias": np.float32(generator.uniform(-bound, bound, after)),
        }
    return params


@jax.jit
def _fit(params: Any, images: jax.Array, labels: jax.Array, order: jax.Array) -> Any:
    optimizer = optax.adam(1e-3)

    def loss(params, chosen):
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits(params, images[chosen]), labels[chosen]
        )
        return losses.mean()

    def step(carry, chosen):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, chosen), state)
        return (optax.apply_updates(params, updates), state), None

    images, labels = jnp.asarray(images), jnp.asarray(labels)
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), order)
    return params


def _methods() -> list[tuple[str, str, dict[str, Any]]]:
    beams = [
        (f"beam {width}", "standardised", {"method": "beam", "beam_width": width})
        for width in WIDTHS
    ]
    restarts = {"method": "coordinate", "restarts": RESTARTS}
    return [
        ("greedy", "standardised", {"method": "greedy"}),
        *beams,
        ("coordinate", "standardised", {"method": "coordinate"}),
        (f"coordinate, {RESTARTS} restarts", "standardised", restarts),
        (f"coordinate, {RESTARTS} restarts", "squared", restarts),
        (
            f"coordinate, {RESTARTS} restarts, rescaled",
            "standardised",
            restarts | {"rescale": True},
        ),
    ]


def _row(
    name: str, a: Params, b: Params, spec: UnitSpec, objective: str, options: dict[str, Any]
) -> dict[str, Any]:
    start = time.perf_counter()
    alignment = align(a, b, spec, objective=objective, **options)
    seconds = time.perf_counter() - start
    study = STUDY.get(options.get("beam_width", 0), (None, None))
    return {
        "method": name,
        "objective": objective,
        "before": alignment.before,
        "after": alignment.after,
        "seconds": seconds,
        "study_after": study[0],
        "study_seconds": study[1],
        "function_error": _function_error(b, alignment),
    }


def _random_row(a: Params, b: Params, spec: UnitSpec) -> dict[str, Any]:
    """The mean over random permutations, for comparison."""
    generator = np.random.default_rng(0)
    measure: Callable[..., float] = functools.partial(distance, a, objective="standardised")
    found = [
        measure(spec.permute(b, {g.name: generator.permutation(g.size) for g in spec.groups}))
        for _ in range(RESTARTS)
    ]
    return {
        "method": f"mean of {RESTARTS} random permutations",
        "objective": "standardised",
        "before": measure(b),
        "after": float(np.mean(found)),
        "deviation": float(np.std(found, ddof=1)),
    }


def _function_error(b: Params, alignment: Alignment) -> float:
    """The largest change of an output in float64, relative to the largest output."""

    def outputs(params: Any) -> np.ndarray:
        params = jax.tree.map(np.float64, params)
        x = np.random.default_rng(0).random((100, params["fc1"]["weight"].shape[1]))
        for layer in ("fc1", "fc2"):
            x = np.maximum(x @ params[layer]["weight"].T + params[layer]["bias"], 0)
        return x @ params["fc3"]["weight"].T + params["fc3"]["bias"]

    moved = alignment.apply(jax.tree.map(np.float64, b))
    expected = outputs(b)
    return float(np.abs(outputs(moved) - expected).max() / np.abs(expected).max())


def table(rows: list[dict[str, Any]]) -> str:
    """Format the rows for people.

    Example:
        >>> row = {"method": "greedy", "objective": "squared", "before": 2.0, "after": 1.0}
        >>> print(table([row]).splitlines()[-1].split())
        ['greedy', 'squared', '2.000', '1.000', '-', '-', '-']
    """

    def cell(row: dict[str, Any], key: str, form: str) -> str:
        return format(row[key], form) if row.get(key) is not None else "-"

    header = ("method", "objective", "before", "after", "seconds", "study: after", "seconds")
    lines = [
        header,
        *(
            (
                row["method"],
                row["objective"],
                cell(row, "before", ".3f"),
                cell(row, "after", ".3f"),
                cell(row, "seconds", ".2f"),
                cell(row, "study_after", ".2f"),
                cell(row, "study_seconds", ".0f"),
            )
            for row in rows
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if k < 2 else text.rjust(width)
            for k, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
