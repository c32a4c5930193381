"""What normalisation, shortcuts, width and attention do to the rank of a deep model.

The rows are images of digits; where there is attention they are the tokens of one sequence. Tapped
is the first matrix of each block: the rank is of what it makes of the block's input, so that all
models are measured at the same place. (A random matrix keeps cosines; as a product with noise it
takes a rank r of width d to about 1 / (1 / r + 1 / d).) All weights are random, without biases.

Reference: Dong, Cordonnier, Loukas 2021, "Attention is not all you need: pure attention loses rank
doubly exponentially with depth"; Noci, Anagnostidis, Biggio, Orvieto, Singh, Lucchi 2022, "Signal
propagation in transformers"; Daneshmand et al. 2020, as in `rank_depth`.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import load
from experiments.errors import UsageError
from experiments.propagation import figure
from experiments.propagation.models import ARMS, Arm, Deep, build
from experiments.propagation.study import Piece, Records, Study, curve, plain, point, table, told
from pfn_optax.propagation import activation_rank, activation_taps, effective_rank, mean_cosine

MEASURES = {
    "activation_rank": activation_rank,
    "effective_rank": effective_rank,
    "mean_cosine": mean_cosine,
}


@dataclasses.dataclass(frozen=True)
class RankArchitecturesExperiment(Study):
    """Rank and cosine over depth of Flax models: norms, shortcuts, width, attention."""

    rows: int = 128
    """Images in the batch, or tokens in the sequence."""
    width: int = 128
    """Units of the stream."""
    depth: int = 64
    """Blocks."""
    arms: tuple[str, ...] = tuple(ARMS)
    """Which models."""
    run_dir: Path = Path("runs/rank_architectures")
    """Outcomes of each model; resumed where it was left."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        super().__post_init__()
        for name in self.arms:
            if name not in ARMS:
                raise UsageError(f"arms are {', '.join(ARMS)}; got {name}")
        if self.depth < 2 or self.rows < 2:
            raise UsageError(f"depth and rows must be at least 2; got {self.depth}, {self.rows}")
        if self.width % 32:
            raise UsageError(f"width must be a multiple of 32; got {self.width}")

    def pieces(self) -> list[Piece]:
        """The arms."""
        return [(name,) for name in self.arms]

    def measure(self, name: str) -> dict[str, Any]:
        """Every measure by draw and block."""
        found = profiles(name, self.rows, self.width, self.depth, self.seeds)
        return {key: plain(values) for key, values in found.items()}

    def summary(self, records: Records) -> dict[str, Any]:
        """Means and intervals by block."""
        rows = [
            {
                "arm": record["piece"][0],
                **{key: curve(record[key]) for key in MEASURES},
            }
            for record in records
        ]
        return {"rows": rows}

    def text(self, found: dict[str, Any]) -> str:
        """Ranks at the first, a middle and the last block."""
        middle = max(1, self.depth // 8)
        rows = [
            [
                row["arm"],
                *(told(point(row["activation_rank"], at)) for at in (0, middle - 1, -1)),
                told(point(row["effective_rank"], -1), 1),
                told(point(row["mean_cosine"], -1), 3),
            ]
            for row in found["rows"]
        ]
        blocks = [f"r, block {at}" for at in (1, middle, self.depth)]
        return table(["model", *blocks, "effective rank, last", "mean cosine, last"], rows)

    def draw(self, found: dict[str, Any], file: Path) -> None:
        """Draws ranks and cosines over depth, a column for each group of models."""
        figure.architectures(found["rows"], file)


def images(num: int) -> jax.Array:
    """Some digits, f32[num, pixels], each pixel with mean 0 over all images."""
    pixels = load("digits").train_images.reshape(-1, 64).astype(np.float32) / 255
    return jnp.asarray((pixels - pixels.mean(axis=0))[:num] / pixels.std())


def measured(pre: jax.Array, post: jax.Array) -> dict[str, jax.Array]:
    """The measures of what a matrix makes of its input."""
    del post
    rows = pre.reshape(len(pre), -1)
    return {name: measure(rows) for name, measure in MEASURES.items()}


def tapped(arm: Arm, model: Deep, shapes: Any, inputs: jax.Array) -> tuple[Any, list[str]]:
    """Taps of the first matrix of each block, and their names."""

    def apply(variables: Any, inputs: jax.Array) -> jax.Array:
        return model.apply(variables, inputs, mutable=["batch_stats"])[0]

    names = activation_taps(apply, shapes, inputs).names
    first = [name for name in names if "reader" in name or "value" in name]
    first = first if arm.is_dense else first[:1]
    return activation_taps(apply, shapes, inputs, statistics=measured, layers=first), first


def profiles(name: str, rows: int, width: int, depth: int, seeds: int) -> dict[str, Any]:
    """Measures draws of a model at the first matrix of each block, f[draws, depth] each."""
    arm = ARMS[name]
    model, inputs = build(arm, width, depth), images(rows)
    keys = jax.random.split(jax.random.key(0), seeds)
    taps, first = tapped(arm, model, jax.eval_shape(model.init, keys[0], inputs), inputs)

    @jax.jit
    @jax.vmap
    def run(key: jax.Array) -> list[dict[str, jax.Array]]:
        layers = taps(model.init(key, inputs), inputs).layers
        return [layers[name] for name in first]

    found = run(keys)
    stacked = {key: np.stack([np.asarray(one[key]).T for one in found]) for key in MEASURES}
    return {key: values.reshape(-1, seeds).T for key, values in stacked.items()}
