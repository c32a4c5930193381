"""Rank, cosine and gradients over depth while classifiers learn: does the start tell the end?

The learning rate of each arm is picked from one grid by the test accuracy of tuning seeds, which
count for nothing else.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from experiments.data import load
from experiments.errors import UsageError
from experiments.propagation import training_figure
from experiments.propagation.networks import ARMS, Sizes, Watched, train
from experiments.propagation.study import Piece, Records, Study, estimates, plain, table, told
from experiments.statistics import bootstrap_difference
from pfn_optax.propagation import log_slope

RATES = (3e-4, 1e-3, 3e-3)
TUNING_SEEDS = (100, 101)
NUM_TESTED = 1000
CURVES = ("rank", "cosine", "gradient")
DRAWN = ("rank", "gradient")


@dataclasses.dataclass(frozen=True)
class RankTrainingExperiment(Study):
    """Activation rank and gradient norms over depth during training, beside what is learnt."""

    dataset: Literal["mnist", "digits"] = "mnist"
    """What to learn."""
    width: int = 48
    """Units of a layer."""
    depth: int = 24
    """Hidden layers."""
    steps: int = 600
    """Of training, with batches of 128."""
    every: int = 30
    """Steps between records."""
    arms: tuple[str, ...] = tuple(ARMS)
    """Which networks."""
    run_dir: Path = Path("runs/rank_training")
    """Outcomes of each arm; resumed where it was left."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        super().__post_init__()
        for name in self.arms:
            if name not in ARMS:
                raise UsageError(f"arms are {', '.join(ARMS)}; got {name}")
        if self.every < 1 or self.steps < 1 or self.steps % self.every:
            raise UsageError(
                f"steps must be a positive multiple of every; got {self.steps} and {self.every}"
            )
        if self.depth < 2:
            raise UsageError(f"depth must be at least 2; got {self.depth}")

    def config(self) -> dict[str, Any]:
        """What determines the results, as JSON values."""
        return super().config() | {"rates": list(RATES), "tuning_seeds": list(TUNING_SEEDS)}

    def pieces(self) -> list[Piece]:
        """The arms."""
        return [(name,) for name in self.arms]

    def measure(self, name: str) -> dict[str, Any]:
        """Pick the learning rate, then train the seeds that count."""
        data = images(self.dataset)
        sizes = Sizes(data[0].shape[1], self.width, self.depth)

        def run(seed: int, rate: float) -> Watched:
            found = train(
                ARMS[name],
                sizes,
                data,
                jnp.int32(seed),
                jnp.float32(rate),
                steps=self.steps,
                every=self.every,
            )
            return jax.tree.map(np.asarray, found)

        tuning = {
            rate: float(np.mean([run(seed, rate).accuracy[-1] for seed in TUNING_SEEDS]))
            for rate in RATES
        }
        rate = max(tuning, key=lambda rate: tuning[rate])
        found = [run(seed, rate) for seed in range(self.seeds)]
        return {
            "rate": rate,
            "tuning_accuracy": {str(rate): value for rate, value in tuning.items()},
            "steps": plain(found[0].steps, 0),
            "accuracy": plain([one.accuracy for one in found], 4),
            "loss": plain([one.loss.reshape(-1, self.every).mean(axis=1) for one in found], 4),
            "last_rank": plain([one.rank[[0, -1], -1] for one in found], 3),
            "last_cosine": plain([one.cosine[[0, -1], -1] for one in found], 4),
            "slopes": [
                [float(log_slope(jnp.asarray(one.gradient[at, :-1]))) for at in (0, -1)]
                for one in found
            ],
            **{name: median([getattr(one, name) for one in found]) for name in CURVES},
        }

    def summary(self, records: Records) -> dict[str, Any]:
        """Start and end of each arm, and how well the one predicts the other."""
        arms = []
        for record in records:
            final = np.asarray(record["accuracy"], float)[:, -1]
            arms.append(
                {
                    "arm": record["piece"][0],
                    "rate": record["rate"],
                    "tuning_accuracy": record["tuning_accuracy"],
                    "final_accuracy": estimates(final),
                    "final_loss": estimates(np.asarray(record["loss"], float)[:, -1]),
                    **{
                        f"{name}_{when}": estimates(np.asarray(record[key], float)[:, at])
                        for name, key in (
                            ("rank", "last_rank"),
                            ("cosine", "last_cosine"),
                            ("slope", "slopes"),
                        )
                        for at, when in enumerate(("at_start", "at_end"))
                    },
                    **{key: record[key] for key in ("steps", "accuracy", "loss", *DRAWN)},
                }
            )
        finals = {arm["arm"]: np.asarray(arm["accuracy"], float)[:, -1] for arm in arms}
        first = next(iter(finals))
        differences = {
            name: bootstrap_difference(final, finals[first])._asdict()
            for name, final in finals.items()
            if name != first
        }
        return {
            "arms": arms,
            "accuracy_over_first_arm": differences,
            "rank_correlations": correlations(arms),
        }

    def text(self, found: dict[str, Any]) -> str:
        """A row per arm, and the correlations over the arms."""
        rows = [
            [
                arm["arm"],
                f"{arm['rate']:g}",
                told(arm["rank_at_start"]),
                told(arm["cosine_at_start"], 3),
                told(arm["slope_at_start"], 3),
                told(arm["final_loss"], 3),
                told(arm["final_accuracy"], 3),
                told(arm["rank_at_end"]),
                told(arm["slope_at_end"], 3),
            ]
            for arm in found["arms"]
        ]
        head = ["arm", "rate", "rank at start", "cosine at start", "slope at start"]
        head += ["last loss", "test accuracy", "rank at end", "slope at end"]
        lines = [table(head, rows)]
        for name, value in found["rank_correlations"].items():
            lines.append(f"Spearman correlation of accuracy with {name}, over arms: {value:.2f}.")
        first = found["arms"][0]["arm"]
        for name, one in found["accuracy_over_first_arm"].items():
            interval = f"[{one['low']:.3f}, {one['high']:.3f}]"
            lines.append(f"{name} over {first}: {one['mean']:.3f} {interval} of accuracy.")
        return "\n".join(lines)

    def draw(self, found: dict[str, Any], file: Path) -> None:
        """Draws learning curves, and ranks and gradient norms by depth and time."""
        training_figure.watched(found["arms"], file)


def median(values: list[np.ndarray]) -> list[list[float]]:
    """Over the seeds, f[records, layers], in three digits."""
    return [[float(f"{value:.3g}") for value in row] for row in np.median(values, axis=0)]


def correlations(arms: Records) -> dict[str, float]:
    """Spearman's, over arms, of the mean final accuracy with what is seen at the start."""
    final = [arm["final_accuracy"]["mean"] for arm in arms]
    seen = {
        "rank at start": [arm["rank_at_start"]["mean"] for arm in arms],
        "|slope of the gradients| at start": [abs(arm["slope_at_start"]["mean"]) for arm in arms],
    }
    ranked: Any = stats.spearmanr
    return {name: float(ranked(values, final)[0]) for name, values in seen.items()}


@functools.cache
def images(dataset: Literal["mnist", "digits"]) -> tuple[jax.Array, ...]:
    """Images with mean 0 and variance 1 over all pixels, and labels; some to test with."""
    data = load(dataset)
    train, test = (
        pixels.reshape(len(pixels), -1).astype(np.float32) / 255
        for pixels in (data.train_images, data.test_images[:NUM_TESTED])
    )
    mean, deviation = train.mean(), train.std()
    return (
        jnp.asarray((train - mean) / deviation),
        jnp.asarray(data.train_labels),
        jnp.asarray((test - mean) / deviation),
        jnp.asarray(data.test_labels[:NUM_TESTED]),
    )
