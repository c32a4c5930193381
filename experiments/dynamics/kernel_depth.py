"""A chaotic network of 51 layers of 9 units: its linear response, and training, by the kernel.

As in the source: x_0 ~ N(0, I), fifty times x' = J tanh(x + shift) + noise, one matrix J with
entries from U(-2, 2), and the mean of the sum of the outputs. The matrix is our own draw of that
law, and there are three more parameters to differentiate by.

Reference: Ni 2023, "No-propagate algorithm for linear responses of random chaotic systems".
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import runs
from experiments.dynamics import learning_figure
from experiments.errors import UsageError
from experiments.pieces import resumed
from pfn_optax.dynamics import value_and_grad_long

Params = dict[str, jax.Array]
NUM_UNITS, NUM_STEPS = 9, 50
MATRIX_SEED = 47
"""Of the first sixty seeds the one whose noisy network is the most chaotic: .15 nats per layer."""
GROUP, HALF_STEP = 500, 0.05
"""Replicas in a group; half the distance of a finite difference."""
METHODS: dict[str, dict[str, Any]] = {
    "kernel": {"method": "kernel"},
    "path kernel": {"method": "path_kernel", "alpha": 0.4},
    "backprop": {"method": "path_kernel", "alpha": 0.0},
}
LEARNING_RATE, SEEDS, TARGET = 0.03, 5, 10.0


@dataclasses.dataclass(frozen=True)
class KernelDepthExperiment:
    """Linear response of a chaotic network of 51 layers by kernel differentiation, and training."""

    noises: tuple[float, ...] = (0.25, 0.5, 1.0)
    """Standard deviations of the noise after every layer."""
    groups: int = 40
    """Groups of 500 samples for each gradient; a finite difference has twice as many, twice."""
    steps: int = 50
    """Of training."""
    json: Path | None = None
    """Where to write the responses and the losses, if anywhere."""
    plot: Path | None = None
    """Where to draw them as a PNG, if anywhere."""
    run_dir: Path = Path("runs/kernel_depth")
    """Outcomes of each noise; resumed where it was left."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        if self.groups < 2:
            raise UsageError(f"groups must be at least 2, for a standard error; got {self.groups}")
        if self.steps < 1:
            raise UsageError(f"steps must be at least 1; got {self.steps}")
        if not self.noises or min(self.noises) <= 0:
            raise UsageError(f"noises must be positive numbers; got {self.noises}")

    def run(self) -> None:
        """Do what is left to do, then print, write and draw."""
        config = {
            "noises": list(self.noises),
            "groups": self.groups,
            "group_size": GROUP,
            "steps": self.steps,
            "half_step": HALF_STEP,
            "learning_rate": LEARNING_RATE,
            "target": TARGET,
        }
        runs.open_run(self.run_dir, config, overwrite=self.overwrite)
        pieces = [(part, noise) for noise in self.noises for part in ("response", "training")]
        found = resumed(self.run_dir / "noises.jsonl", pieces, self._measure)
        rows = [row for one in found for row in one.get("rows", [])]
        training = [one for one in found if "losses" in one]
        print(text(rows, training))
        if self.json:
            told = [{"noise": one["noise"], "losses": one["losses"]} for one in training]
            runs.write_json(self.json, {"config": config, "responses": rows, "training": told})
        if self.plot:
            learning_figure.responses(rows, training, self.plot)

    def _measure(self, part: Literal["response", "training"], noise: float) -> dict[str, Any]:
        if part == "response":
            return {"rows": responses(noise, self.groups)}
        losses = train(noise, self.steps)
        return {"noise": noise, "losses": np.asarray(losses, np.float64).round(5).tolist()}


def matrix() -> jax.Array:
    """The matrix J of all layers."""
    shape = (NUM_UNITS, NUM_UNITS)
    return jax.random.uniform(jax.random.key(MATRIX_SEED), shape, minval=-2, maxval=2)


def start() -> Params:
    """Shift of all inputs, gain of the matrix, bias of the first unit, and one weight."""
    return {
        "shift": jnp.float32(0.2),
        "gain": jnp.float32(1),
        "bias": jnp.float32(0),
        "weight": matrix()[0, 0],
    }


def layer(params: Params, x: jax.Array) -> jax.Array:
    """A layer without its noise, f[9] to f[9]."""
    weights = matrix().at[0, 0].set(params["weight"])
    after = params["gain"] * weights @ jnp.tanh(x + params["shift"])
    return after.at[0].add(params["bias"])


@functools.partial(jax.jit, static_argnames=("method", "groups"))
def gradients(method: str, noise: jax.Array, key: jax.Array, groups: int) -> Params:
    """The gradient by one of `METHODS` from each of some groups of samples, leaves f[groups].

    A group shares its x_0; backpropagation is the path kernel that leaves nothing to the noise.
    """
    mean = value_and_grad_long(
        layer,
        lambda params, x: x.sum(),
        num_steps=NUM_STEPS,
        average="end",
        noise=noise,
        num_replicas=GROUP,
        **METHODS[method],
    )

    def one(key):
        first, second = jax.random.split(key)
        return mean(start(), jax.random.normal(first, (NUM_UNITS,)), key=second).gradient

    return jax.lax.map(one, jax.random.split(key, groups))


@functools.partial(jax.jit, static_argnames="groups")
def outputs(params: Params, noise: jax.Array, key: jax.Array, groups: int) -> jax.Array:
    """Means of the sum of the outputs over independent groups of samples, f[groups]."""

    def one(key):
        first, second = jax.random.split(key)
        x = jax.random.normal(first, (GROUP, NUM_UNITS))

        def step(x, key):
            return jax.vmap(layer, (None, 0))(params, x) + noise * jax.random.normal(
                key, x.shape
            ), None

        return jax.lax.scan(step, x, jax.random.split(second, NUM_STEPS))[0].sum(axis=1).mean()

    return jax.lax.map(one, jax.random.split(key, groups))


def responses(noise: float, groups: int) -> list[dict[str, Any]]:
    """The derivative by every parameter, by every method, with its standard error."""
    by_method = {
        method: gradients(method, jnp.float32(noise), jax.random.key(1), groups)
        for method in METHODS
    }
    rows = []
    for number, name in enumerate(start()):
        ends = []
        for side, sign in enumerate((-1, 1)):
            params = start()
            params[name] = params[name] + sign * HALF_STEP
            key = jax.random.fold_in(jax.random.key(2), 2 * number + side)
            ends.append(np.asarray(outputs(params, jnp.float32(noise), key, 2 * groups)))
        own = {
            "finite difference": _estimate((ends[1] - ends[0]) / (2 * HALF_STEP)),
            **{method: _estimate(found[name]) for method, found in by_method.items()},
        }
        rows.append({"noise": noise, "parameter": name, **own})
    return rows


def _estimate(values: Any) -> dict[str, float]:
    values = np.asarray(values, np.float64)
    error = float(values.std(ddof=1) / len(values) ** 0.5)
    return {"mean": float(values.mean()), "standard_error": error}


def train(noise: float, steps: int) -> jax.Array:
    """Adam on the kernel's gradient of all 81 weights and 9 biases, from several seeds.

    The loss is (<sum of outputs> - 10)^2 / 100, by two halves of a batch: the mean of one times
    the gradient of the other, which is unbiased.

    Returns:
        The losses f[seeds, steps], from the mean of the whole batch.
    """
    mean = value_and_grad_long(
        lambda params, x: params["weights"] @ jnp.tanh(x) + params["bias"],
        lambda params, x: x.sum(),
        num_steps=NUM_STEPS,
        average="end",
        method="kernel",
        noise=noise,
        num_replicas=GROUP,
    )
    optimizer = optax.adam(LEARNING_RATE)

    @jax.jit
    @jax.vmap
    def run(seed):
        params = {"weights": matrix(), "bias": jnp.zeros(NUM_UNITS)}

        def one(carry, key):
            params, state = carry
            first, second = jax.random.split(key)
            found = jax.vmap(lambda x, key: mean(params, x, key=key))(
                jax.random.normal(first, (2, NUM_UNITS)), jax.random.split(second)
            )
            weights = 2 * (found.value[::-1] - TARGET) / TARGET**2
            gradient = jax.tree.map(
                lambda leaf: jnp.tensordot(weights, leaf, 1) / 2, found.gradient
            )
            updates, state = optimizer.update(gradient, state)
            loss = jnp.square(found.value.mean() / TARGET - 1)
            return (optax.apply_updates(params, updates), state), loss

        keys = jax.random.split(jax.random.key(seed), steps)
        return jax.lax.scan(one, (params, optimizer.init(params)), keys)[1]

    return run(jnp.arange(SEEDS))


def text(rows: list[dict[str, Any]], training: list[dict[str, Any]]) -> str:
    """Formats the responses as a Markdown table, and says how training went."""
    names = ("finite difference", *METHODS)
    lines = [
        f"| noise | parameter | {' | '.join(names)} |",
        "| --- " * (len(names) + 2) + "|",
    ]
    for row in rows:
        told = (f"{row[name]['mean']:.4g} ± {row[name]['standard_error']:.2g}" for name in names)
        lines.append(f"| {row['noise']:g} | {row['parameter']} | {' | '.join(told)} |")
    for one in training:
        losses = np.asarray(one["losses"])
        ends = losses[:, -10:].mean(axis=1)
        lines.append(
            f"Training with noise {one['noise']:g}: loss {losses[:, 0].mean():.3f} at first, "
            f"{ends.mean():.4f} at last (worst seed {ends.max():.4f})."
        )
    return "\n".join(lines)
