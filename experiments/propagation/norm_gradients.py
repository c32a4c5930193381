"""How gradients of the weights grow from layer to layer back through batch norm.

x' = f(batch norm(x W)), width d, batch n; the loss is a fixed random linear function of the last
x'. The growth is that of |dW|^2 per layer, by least squares on its logarithm over all layers but
the first and the last few.

Reference: Yang, Pennington, Rao, Sohl-Dickstein, Schoenholz 2019, "A mean field theory of batch
normalization"; Meterez, Joudaki, Orabona, Immer, Raetsch, Daneshmand 2024, "Towards training
without depth limits: batch normalization without gradient explosion".
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
from experiments.propagation.layers import Layer, Norm, Weights, kernel
from experiments.propagation.study import Piece, Records, Study, estimates, plain, table, told
from pfn_optax.propagation import log_slope

LEFT_OUT = 5
"""Layers at either end that do not count: near them there is a transient."""


@dataclasses.dataclass(frozen=True)
class NormGradientsExperiment(Study):
    """Growth of |dW|^2 per layer under batch norm, by weights, activation, centring and shape."""

    seeds: int = 10
    """Random draws of each network."""
    shapes: tuple[tuple[int, int], ...] = ((32, 128), (128, 128), (512, 128), (128, 512))
    """Samples of the batch and units of the layer."""
    depth: int = 40
    """Layers."""
    run_dir: Path = Path("runs/norm_gradients")
    """Outcomes of each kind of network; resumed where it was left."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        super().__post_init__()
        if self.depth < 2 * LEFT_OUT + 2:
            raise UsageError(f"depth must be at least {2 * LEFT_OUT + 2}; got {self.depth}")
        if not self.shapes or min(min(shape) for shape in self.shapes) < 2:
            raise UsageError(f"shapes must be pairs of 2 or more; got {self.shapes}")

    def pieces(self) -> list[Piece]:
        """Weights, activation, centring, and shape."""
        return [
            (weights, activation, norm, samples, width)
            for samples, width in self.shapes
            for activation in ("identity", "relu")
            for norm in ("uncentred", "centred")
            for weights in ("gaussian", "orthogonal")
        ]

    def measure(
        self, weights: Weights, activation: str, norm: Norm, samples: int, width: int
    ) -> dict[str, Any]:
        """Ln |dW| by draw and layer."""
        keys = jax.random.split(jax.random.key(0), self.seeds)
        layer = Layer(norm, activation, weights)
        return {"log_norms": plain(log_norms(layer, samples, width, self.depth, keys))}

    def summary(self, records: Records) -> dict[str, Any]:
        """Growth per layer, towards the data, and the mean profile."""
        names = ("weights", "activation", "norm", "samples", "width")
        rows = []
        for record in records:
            own = np.asarray(record["log_norms"], np.float64)
            inner = np.exp(own - own.mean(axis=1, keepdims=True))[:, LEFT_OUT:-LEFT_OUT]
            growth = [float(np.exp(-2 * log_slope(jnp.asarray(norms)))) for norms in inner]
            profile = plain((own - own[:, -1:]).mean(axis=0), 3)
            rows.append(
                {
                    **dict(zip(names, record["piece"], strict=True)),
                    "growth": estimates(growth),
                    "profile": profile,
                }
            )
        return {"rows": rows}

    def text(self, found: dict[str, Any]) -> str:
        """A row per activation, centring and weights; a column per shape."""
        rows = []
        for first in found["rows"]:
            kind = [first[name] for name in ("activation", "norm", "weights")]
            own = [
                told(row["growth"], 4)
                for row in found["rows"]
                if [row[name] for name in ("activation", "norm", "weights")] == kind
            ]
            if [*kind, *own] not in rows:
                rows.append([*kind, *own])
        shapes = [f"n = {samples}, d = {width}" for samples, width in self.shapes]
        return table(["activation", "batch norm", "weights", *shapes], rows)

    def draw(self, found: dict[str, Any], file: Path) -> None:
        """Draws gradient norms over depth, a panel per shape."""
        figure.norm_gradients(found["rows"], self.shapes, file)


@functools.partial(jax.jit, static_argnames=("layer", "samples", "width", "depth"))
def log_norms(layer: Layer, samples: int, width: int, depth: int, keys: jax.Array) -> jax.Array:
    """Logarithms of the norms of the weights' gradients, f[draws, depth]."""

    def one(key: jax.Array) -> jax.Array:
        first, second, third = jax.random.split(key, 3)
        shape = width, width
        kernels = jax.lax.map(
            lambda own: kernel(own, shape, layer.weights), jax.random.split(first, depth)
        )
        inputs = jax.random.normal(second, (samples, width))
        target = jax.random.normal(third, (samples, width))

        def loss(kernels: jax.Array) -> jax.Array:
            def step(x: jax.Array, own: jax.Array) -> tuple[jax.Array, None]:
                return layer(own, x)["output"], None

            return jnp.sum(target * jax.lax.scan(step, inputs, kernels)[0])

        gradient = jax.grad(loss)(kernels)
        largest = jnp.max(jnp.abs(gradient), axis=(1, 2))
        scaled = gradient / largest[:, None, None]
        return jnp.log(largest) + jnp.log(jnp.sum(scaled**2, axis=(1, 2))) / 2

    return jax.lax.map(one, keys)
