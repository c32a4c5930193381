"""Lyapunov spectra of random recurrent networks against the gain of their weights."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments import runs
from experiments.dynamics import figure
from experiments.dynamics.mean_field import leading_exponents
from experiments.errors import UsageError
from experiments.pieces import resumed
from experiments.statistics import estimate
from pfn_optax.dynamics import (
    DynamicsStatus,
    cell_step,
    entropy_bound,
    kaplan_yorke_dimension,
    lyapunov_spectrum,
)
from pfn_optax.precision import double_precision

Network = Literal["tanh", "large tanh", "driven tanh", "GRU", "LSTM"]


@dataclasses.dataclass(frozen=True)
class RNNExponentsExperiment:
    """Lyapunov exponents of random recurrent networks: where chaos begins, and how much there is.

    Of tanh networks the whole spectrum; the leading exponent of larger ones, of driven ones, and of
    gated cells. On a machine of few
    cores run it with OPENBLAS_NUM_THREADS=1: small QR decompositions gain nothing from threads.
    """

    networks: tuple[Network, ...] = get_args(Network)
    """Kinds of networks."""
    size: int = 100
    """Units, N."""
    large_size: int = 400
    """Units of the large tanh networks."""
    gains: tuple[float, ...] = (0.5, 0.75, 0.9, 1, 1.1, 1.25, 1.5, 1.75, 2, 2.25, 2.5, 3, 4)
    """Recurrent weights are drawn from N(0, gain^2 / N)."""
    seeds: int = 10
    """Networks at each gain."""
    steps: int = 1000
    """Recorded steps."""
    transient: int = 500
    """Steps before."""
    drive: float = 0.5
    """Standard deviation of the white noise that each unit of the driven network takes."""
    json: Path | None = None
    """Where to write the numbers, if anywhere."""
    plot: Path | None = None
    """Where to draw them as a PNG, if anywhere."""
    run_dir: Path = Path("runs/rnn-exponents")
    """Exponents of each kind and gain; resumed where it was left."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        for name, least in (("size", 2), ("large_size", 2), ("seeds", 2), ("steps", 100)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}; got {getattr(self, name)}")
        if not self.networks:
            raise UsageError("networks must name one kind at least")
        if self.transient < 0:
            raise UsageError(f"transient must not be negative; got {self.transient}")
        if not self.gains or min(self.gains) <= 0 or list(self.gains) != sorted({*self.gains}):
            raise UsageError(f"gains must be positive and increasing; got {self.gains}")

    def run(self) -> None:
        """Measure what is left to measure in the run folder, then print, write and draw."""
        config = {
            name: getattr(self, name)
            for name in ("size", "large_size", "seeds", "steps", "transient", "drive")
        } | {"networks": list(self.networks), "gains": list(self.gains)}
        runs.open_run(self.run_dir, config, overwrite=self.overwrite)
        pieces = [(network, gain) for network in self.networks for gain in self.gains]
        rows = resumed(self.run_dir / "exponents.jsonl", pieces, self._measured)
        drives = {"tanh": 0.0, "large tanh": 0.0, "driven tanh": self.drive}
        theory = {
            network: dict(
                zip(self.gains, leading_exponents(np.array(self.gains), drive), strict=True)
            )
            for network, drive in drives.items()
        }
        for row in rows:
            row["network"], row["gain"] = row.pop("piece")
            if row["network"] in theory:
                row["mean_field"] = float(theory[row["network"]][row["gain"]])
            print(_line(row))
        if self.json:
            runs.write_json(self.json, {"config": config, "rows": rows})
        if self.plot:
            sizes = self.size, self.large_size
            figure.exponents(rows, sizes, self.drive, self.plot)

    def _measured(self, network: Network, gain: float) -> dict[str, Any]:
        """All seeds of a kind at a gain."""
        with double_precision():
            size = self.large_size if network == "large tanh" else self.size
            drive = self.drive if network == "driven tanh" else 0.0
            found = _measure(size, network, self.seeds, self.steps, self.transient)(
                jnp.asarray(gain, float), jnp.asarray(drive, float)
            )
            exponents, errors, statuses = map(np.asarray, found)
            leading = exponents[:, 0]
            row = {
                "leading": leading.tolist(),
                "leading_error": errors[:, 0].tolist(),
                "mean_leading": estimate(leading)._asdict(),
                "num_unresolved": int((statuses != DynamicsStatus.FINISHED).sum()),
            }
            if network == "tanh":
                dimension = jax.vmap(kaplan_yorke_dimension)(found[0]) / self.size
                entropy = jax.vmap(entropy_bound)(found[0]) / self.size
                row |= {
                    "mean_spectrum": exponents.mean(axis=0).round(5).tolist(),
                    "num_positive": (exponents > 0).sum(axis=1).tolist(),
                    "dimension_per_unit": estimate(np.asarray(dimension))._asdict(),
                    "entropy_per_unit": estimate(np.asarray(entropy))._asdict(),
                }
        return row


@functools.cache
def _measure(
    size: int, network: Network, num_seeds: int, num_steps: int, num_transient: int
) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]:
    """Compiles (gain, drive) -> exponents, standard errors and status, one row per seed."""
    is_tanh = network.endswith("tanh")

    def one(seed: jax.Array, gain: jax.Array, drive: jax.Array):
        key = jax.random.key(seed)
        weights_key, state_key, input_key = jax.random.split(key, 3)
        if is_tanh:
            weights = gain / size**0.5 * jax.random.normal(weights_key, (size, size))
            state = jax.random.normal(state_key, (size,))

            def step(state, key):
                return jnp.tanh(weights @ state + drive * jax.random.normal(key, (size,)))

            inputs = jax.random.split(input_key, num_transient + num_steps)
        else:
            step, state = _cell(network, size, gain, weights_key, state_key)
            inputs = jnp.zeros((num_transient + num_steps, 1))
        found = lyapunov_spectrum(
            step,
            state,
            inputs=inputs,
            num_transient=num_transient,
            num_exponents=None if network == "tanh" else 1,
            num_points=20,
        )
        return found.exponents, found.standard_error, found.status

    return jax.jit(
        lambda gain, drive: jax.vmap(lambda seed: one(seed, gain, drive))(jnp.arange(num_seeds))
    )


def _cell(
    network: Network, size: int, gain: jax.Array, weights_key: jax.Array, state_key: jax.Array
) -> tuple[Callable[..., Any], Any]:
    """A gated cell whose recurrent kernels all have the gain, without biases; and a start."""
    options: dict[str, Any] = {
        "features": size,
        "recurrent_kernel_init": nn.initializers.normal(size**-0.5),
        "param_dtype": jnp.float64,
    }
    cell = nn.GRUCell(**options) if network == "GRU" else nn.LSTMCell(**options)
    carry = cell.initialize_carry(state_key, (1,))
    keys = jax.random.split(state_key, len(jax.tree.leaves(carry)))
    keys = jax.tree.unflatten(jax.tree.structure(carry), list(keys))
    carry = jax.tree.map(lambda leaf, key: jax.random.normal(key, leaf.shape), carry, keys)
    variables = cell.init(weights_key, carry, jnp.zeros(1))
    # Biases are zero and so are the inputs: only recurrent kernels are left to have a gain.
    return cell_step(cell, jax.tree.map(lambda leaf: gain * leaf, variables)), carry


def _line(row: dict[str, Any]) -> str:
    text = "{network}, gain {gain}: leading exponent {mean:+.4f} [{low:+.4f}, {high:+.4f}]".format(
        **row, **row["mean_leading"]
    )
    if "mean_field" in row:
        text += f", mean field {row['mean_field']:+.4f}"
    if "mean_spectrum" in row:
        text += "; per unit, dimension {:.3f}, entropy {:.4f}".format(
            *(row[name]["mean"] for name in ("dimension_per_unit", "entropy_per_unit"))
        )
    return text
