"""Isometry gap over depth under layer norm after the activation, beside what beta_0 says.

h' = layer norm(f(W h)) from samples that all have the same cosine. With beta_0 = 2 - alpha, alpha
the linear share of the centred activation, correlations map as rho' = alpha rho + O(rho^2) at
infinite width. The gap is of second order in them, so at last it falls by 1 / alpha^2 per layer:
the rate -2 ln(2 - beta_0), in nats. Given its inputs, W h has independent Gaussian units whose
covariance over the samples is that of the inputs; so it is drawn, and no W is formed.

Reference: Joudaki, Daneshmand, Bach 2023, "On the impact of activation and normalization in
obtaining isometric embeddings at initialization".
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.errors import UsageError
from experiments.propagation import figure
from experiments.propagation.layers import ACTIVATIONS, layer_norm
from experiments.propagation.study import (
    Piece,
    Records,
    Study,
    curve,
    estimates,
    plain,
    table,
    told,
)
from pfn_optax.precision import double_precision
from pfn_optax.propagation import correlation_map, isometry_decay, isometry_gap, variance_map

LARGEST_GAP, LEAST_OVER_FLOOR = 0.2, 3.0
"""The rate is that of layers whose gap is below the one, and above the other times the floor, the
gap at which finite width stops the decay. The floor is subtracted first."""
LEAST_LAYERS, NUM_DRAWN = 3, 50


@dataclasses.dataclass(frozen=True)
class IsometryDecayExperiment(Study):
    """Layer-wise decay of the isometry gap under layer norm, by activation."""

    seeds: int = 10
    """Random draws of each network."""
    activations: tuple[str, ...] = tuple(ACTIVATIONS)
    """Of the layers."""
    width: int = 2048
    """Units of a layer."""
    samples: int = 8
    """In a batch."""
    cosine: float = 0.9
    """Between the samples, at the start."""
    depth: int = 200
    """Layers."""
    run_dir: Path = Path("runs/isometry_decay")
    """Outcomes of each activation; resumed where it was left."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        super().__post_init__()
        for name in self.activations:
            if name not in ACTIVATIONS:
                raise UsageError(f"activations are {', '.join(ACTIVATIONS)}; got {name}")
        if not 2 <= self.samples < self.width:
            raise UsageError(f"samples must be from 2 to less than the width; got {self.samples}")
        if not 0 < self.cosine < 1:
            raise UsageError(f"cosine must be between 0 and 1; got {self.cosine}")

    def pieces(self) -> list[Piece]:
        """The activations."""
        return [(name,) for name in self.activations]

    def measure(self, name: str) -> dict[str, Any]:
        """The gaps by draw and layer, and the theory's."""
        keys = jax.random.split(jax.random.key(0), self.seeds)
        found = gaps(name, self.width, self.samples, self.cosine, self.depth, keys)
        with double_precision():
            beta = float(isometry_decay(ACTIVATIONS[name]))
        theory = infinite_width(name, self.samples, self.cosine, self.depth)
        return {"beta": beta, "gaps": plain(found, 6), "theory": plain(theory, 9)}

    def summary(self, records: Records) -> dict[str, Any]:
        """Rates in nats per layer: of the draws, of infinite width, of beta_0."""
        rows = []
        every = max(1, self.depth // NUM_DRAWN)
        for record in records:
            drawn = np.asarray(record["gaps"], np.float64)
            floor = float(drawn[:, -len(drawn[0]) // 4 :].mean())
            layers = window(drawn.mean(axis=0), floor)
            theory = np.asarray(record["theory"])
            rows.append(
                {
                    "activation": record["piece"][0],
                    "beta": record["beta"],
                    "layers": None if layers is None else [layers.start, layers.stop],
                    "rate": None
                    if layers is None
                    else estimates([fall(own[layers] - floor) for own in drawn]),
                    "theory_rate_there": None if layers is None else fall(theory[layers]),
                    "theory_rate": -2 * np.log(2 - record["beta"]),
                    "first_rate": estimates(np.log(drawn[:, 0] / drawn[:, 1])),
                    "floor": floor,
                    "depths": list(range(0, len(theory), every)),
                    "gaps": curve(drawn[:, ::every], 5),
                    "theory": plain(theory[::every], 6),
                }
            )
        return {"rows": rows}

    def text(self, found: dict[str, Any]) -> str:
        """A row per activation."""
        rows = []
        for row in found["rows"]:
            own = ["none", ""]
            if row["rate"] is not None:
                own = [told(row["rate"], 3), f"{row['theory_rate_there']:.3f}"]
            numbers = [f"{np.log(row['beta']):.3f}", f"{row['theory_rate']:.3f}", *own]
            first, floor = told(row["first_rate"], 3), f"{row['floor']:.4f}"
            rows.append([row["activation"], f"{row['beta']:.4f}", *numbers, first, floor])
        head = ["activation", "beta_0", "ln beta_0", "-2 ln(2 - beta_0)", "measured rate"]
        head += ["infinite width, same layers"]
        return table([*head, "rate of the first layer", "gap at the end"], rows)

    def draw(self, found: dict[str, Any], file: Path) -> None:
        """Draws the gaps over depth, and the rates beside the theory's."""
        figure.isometry(found["rows"], file)


@functools.partial(jax.jit, static_argnames=("name", "width", "samples", "depth"))
def gaps(
    name: str, width: int, samples: int, cosine: float, depth: int, keys: jax.Array
) -> jax.Array:
    """Isometry gaps of the start and after every layer, f[draws, depth + 1]."""

    def one(key: jax.Array) -> jax.Array:
        def step(h: jax.Array, number: Any) -> tuple[jax.Array, jax.Array]:
            root = jnp.linalg.cholesky(h @ h.T / width)
            drawn = jax.random.normal(jax.random.fold_in(key, number), h.shape)
            h = layer_norm(ACTIVATIONS[name](root @ drawn))
            return h, isometry_gap(h)

        start = equicorrelated(jax.random.fold_in(key, depth), samples, width, cosine)
        _, found = jax.lax.scan(step, start, jnp.arange(depth))
        return jnp.concatenate([isometry_gap(start)[None], found])

    return jax.vmap(one)(keys)


def equicorrelated(key: jax.Array, samples: int, width: int, cosine: float) -> jax.Array:
    """Samples with mean 0, variance 1 over their units, and one cosine, exactly."""
    drawn = jax.random.normal(key, (width, samples + 2)).at[:, 0].set(1)
    basis, _ = jnp.linalg.qr(drawn)  # all but the first column are orthogonal to the ones
    shared, own = basis[:, 1], basis[:, 2:]
    return width**0.5 * (cosine**0.5 * shared + (1 - cosine) ** 0.5 * own.T)


def infinite_width(name: str, samples: int, cosine: float, depth: int) -> np.ndarray:
    """The gaps where all correlations stay equal, f[depth + 1]."""
    with double_precision():
        rho = np.asarray(_correlations(name, jnp.asarray(cosine), depth))
    return -(np.log1p((samples - 1) * rho) + (samples - 1) * np.log1p(-rho)) / samples


@functools.partial(jax.jit, static_argnames=("name", "depth"))
def _correlations(name: str, cosine: jax.Array, depth: int) -> jax.Array:
    """Of the start and after every layer: those of the centred activations."""
    activation = ACTIVATIONS[name]
    square = variance_map(activation, 1.0, 1.0)
    mean = square * correlation_map(activation, 0.0, 1.0, 1.0)  # (E f)^2

    def step(rho: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        product = square * correlation_map(activation, rho, 1.0, 1.0)
        return (product - mean) / (square - mean), rho

    return jax.lax.scan(step, cosine, length=depth + 1)[1]


def window(mean: np.ndarray, floor: float) -> slice | None:
    """The layers that count, by the mean gap of the draws; None if they are too few."""
    is_high = mean > LARGEST_GAP
    start = len(mean) if is_high.all() else int(np.argmin(is_high))
    is_low = mean[start:] < LEAST_OVER_FLOOR * floor
    stop = start + int(np.argmax(is_low)) if is_low.any() else len(mean)
    return slice(start, stop) if stop - start >= LEAST_LAYERS else None


def fall(found: np.ndarray) -> float:
    """By how much the logarithm falls per layer, by least squares."""
    positive = np.maximum(found, 1e-12)
    return float(-np.polyfit(np.arange(len(found)), np.log(positive), 1)[0])
