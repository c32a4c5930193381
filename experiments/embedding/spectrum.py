"""How often networks of each width are at each loss, over many starts."""

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments import runs
from experiments.embedding import figure
from experiments.embedding.networks import target
from experiments.errors import UsageError

_NUM_POINTS = 40
_CHUNK = 500  # steps between two looks at the progress bar
_LOW, _HIGH, _NUM_BINS = -5, 0, 200
_EDGES = np.linspace(_LOW, _HIGH, _NUM_BINS + 1)


@dataclasses.dataclass(frozen=True)
class LossSpectrumExperiment:
    """The losses at which networks of several widths rest, as spectral lines."""

    widths: tuple[int, ...] = (2, 3, 5, 10, 20, 50, 100, 200, 400)
    """Numbers of hidden units."""
    starts: int = 100
    """Networks of each width, trained side by side."""
    steps: int = 500_000
    """Steps of gradient descent."""
    learning_rate: float = 1e-3
    """Of gradient descent."""
    json: Path | None = None
    """Where to write the histograms, if anywhere."""
    plot: Path | None = None
    """Where to draw them as a PNG, if anywhere."""
    run_dir: Path = Path("runs/loss-spectrum")
    """The histograms of each width; resumed where it was left."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        if not self.widths or list(self.widths) != sorted({*self.widths}) or self.widths[0] < 1:
            raise UsageError(f"widths must be increasing, such as 2 3 10; got {self.widths}")
        if self.starts < 1 or self.steps < _CHUNK:
            raise UsageError(
                f"there must be a start and {_CHUNK} steps; got {self.starts} and {self.steps}"
            )

    @property
    def config(self) -> dict[str, Any]:
        """What determines the results of a width."""
        return {"starts": self.starts, "steps": self.steps, "learning_rate": self.learning_rate}

    def run(self) -> None:
        """Train what is left to train in the run folder, then print, write and draw."""
        runs.open_run(self.run_dir, self.config, overwrite=self.overwrite)
        found = {width: self._width(width) for width in self.widths}
        counts = {width: np.asarray(one["counts"]) for width, one in found.items()}
        for width, one in found.items():
            final = np.log10(np.maximum(one["final_losses"], 10.0**_LOW))
            quartiles = np.array2string(np.quantile(final, [0, 0.25, 0.5, 0.75, 1]), precision=2)
            lines = ", ".join(f"{place:.2f}" for place in peaks(counts[width]))
            print(f"width {width}: final log10 losses, quartiles {quartiles}; lines at {lines}")
        if self.json:
            widths = {str(width): one for width, one in found.items()}
            bins = {"low": _LOW, "high": _HIGH, "num_bins": _NUM_BINS}
            value = {"config": self.config, "bins": bins, "widths": widths}
            runs.write_json(self.json, value)
        if self.plot:
            figure.spectrum(counts, _EDGES, self.plot)

    def _width(self, width: int) -> dict[str, Any]:
        """One width, from the run folder where it is there."""
        file = self.run_dir / f"{width}.npz"
        if not file.exists():
            began = time.perf_counter()
            counts, losses = self._trained(width)
            seconds = time.perf_counter() - began
            partial = file.with_suffix(".partial.npz")
            np.savez(partial, counts=counts, losses=losses, seconds=seconds)
            partial.replace(file)
        with np.load(file) as arrays:
            return {
                "counts": arrays["counts"].tolist(),
                "final_losses": arrays["losses"].tolist(),
                "seconds": float(arrays["seconds"]),
            }

    def _trained(self, width: int) -> tuple[np.ndarray, np.ndarray]:
        params = start(width, self.starts)
        counts = np.zeros(_NUM_BINS, np.int64)
        losses = jnp.zeros(self.starts)
        steps = range(self.steps // _CHUNK)
        for _ in tqdm(steps, desc=f"width {width}", unit=f"x{_CHUNK} steps", leave=False):
            params, own, losses = descend_all(params, _CHUNK, self.learning_rate)
            counts += np.asarray(own)
        return counts, np.asarray(losses)


def start(width: int, num_starts: int) -> jax.Array:
    """Weights w, b and a of size 0.1 / width: the wider the network, the smaller each unit."""
    return 0.1 / width * jax.random.normal(jax.random.key(0), (num_starts, 3, width))


def histogram(losses: jax.Array) -> jax.Array:
    """How many losses there are in each bin of their logarithms, i32[num_bins]."""
    place = jnp.floor((jnp.log10(losses) - _LOW) * (_NUM_BINS / (_HIGH - _LOW)))
    # What lies outside is counted in a bin of its own, which is left out.
    place = jnp.where((place >= 0) & (place < _NUM_BINS), place, _NUM_BINS).astype(int)
    return jnp.bincount(place.ravel(), length=_NUM_BINS + 1)[:_NUM_BINS]


def peaks(counts: np.ndarray) -> list[float]:
    """The centres of the bins that hold more than those around them, and a hundredth of all."""
    around = np.lib.stride_tricks.sliding_window_view(np.pad(counts, 3), 7).max(axis=1)
    is_peak = (counts == around) & (counts > 0.01 * counts.sum())
    return ((_EDGES[:-1] + _EDGES[1:]) / 2)[is_peak].tolist()


def step(params: jax.Array, learning_rate: Any) -> tuple[jax.Array, jax.Array]:
    """One step of gradient descent on one network, f32[3, width], and the loss before it."""
    x = np.linspace(-1.5, 1.5, _NUM_POINTS)
    x, y = jnp.float32(x), jnp.float32(target(x))

    def loss(params):
        w, b, a = params
        return jnp.square(a @ jax.nn.relu(w[:, None] * x + b[:, None]) - y).mean() / 2

    value, slope = jax.value_and_grad(loss)(params)
    return params - learning_rate * slope, value


def descend(params: jax.Array, num_steps: int, learning_rate: Any) -> tuple[jax.Array, Any]:
    """One network: its parameters f32[3, width] after so many steps, and the loss at each."""
    return jax.lax.scan(lambda params, _: step(params, learning_rate), params, None, num_steps)


@functools.partial(jax.jit, static_argnums=1)
def descend_all(params: jax.Array, num_steps: int, learning_rate: float) -> Any:
    """All starts side by side: parameters, the histogram of all losses, the last losses."""
    params, losses = jax.vmap(lambda one: descend(one, num_steps, learning_rate))(params)
    return params, histogram(losses), losses[:, -1]
