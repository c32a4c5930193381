"""Small networks to be diagnosed, whose programs are compiled once for all of their parameters."""

from typing import Any

import jax
import jax.numpy as jnp

from pfn_optax.diagnosis.arguments import checked
from pfn_optax.diagnosis.budget import Budget
from pfn_optax.diagnosis.case import Case
from pfn_optax.diagnosis.setup import TrainingSetup
from pfn_optax.diagnosis.thresholds import Thresholds

WIDTH, DEPTH, BATCH = 16, 4, 24
STEPS = 12


class SharedBudget(Budget):
    """A budget that keeps its programs: of the same loss, on other numbers of the same shapes."""

    def __init__(self):
        """Without a limit to speak of."""
        super().__init__(max_seconds=1e6, max_bytes=None)
        self._programs: dict[Any, Any] = {}

    def compile(self, function: Any, *args: Any, what: str, num_runs: int = 1) -> Any:
        """Compiles what was not; the search for NaN keeps notes while it is traced."""
        if what.startswith("the search"):
            return super().compile(function, *args, what=what, num_runs=num_runs)
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(args))
        key = what, shapes
        if key not in self._programs:
            self._programs[key] = super().compile(function, *args, what=what, num_runs=num_runs)
        return self._programs[key]


class Network:
    """A loss, parameters that are healthy, and a batch."""

    def __init__(self, loss: Any, params: Any, batch: Any):
        """Holds them."""
        self.loss, self.params, self.batch = loss, params, batch
        self._budget = SharedBudget()

    def case(self, params: Any = None, batch: Any = None, **thresholds: float) -> Case:
        """A case of the same network with other numbers."""
        params = self.params if params is None else params
        batch = self.batch if batch is None else batch
        setup = checked(TrainingSetup(self.loss, params, batch))
        return Case(setup, Thresholds(**thresholds), jax.random.key(0), self._budget)


def dense(key: jax.Array, fan_in: int, fan_out: int, gain: float) -> dict[str, jax.Array]:
    """A layer that multiplies the mean square by `gain`, without an activation."""
    kernel = jax.random.normal(key, (fan_in, fan_out)) * (gain / fan_in) ** 0.5
    return {"b": jnp.zeros(fan_out), "w": kernel}


def mlp(activation: Any, gain: float) -> Network:
    """`DEPTH` hidden layers, `l0` to `l3`, and a last one, `out`; squared error."""
    keys = jax.random.split(jax.random.key(1), DEPTH + 3)
    params = {f"l{n}": dense(keys[n], WIDTH, WIDTH, gain) for n in range(DEPTH)}
    params["out"] = dense(keys[DEPTH], WIDTH, 3, 1.0)
    x = jax.random.normal(keys[-2], (BATCH, WIDTH))
    y = jax.random.normal(keys[-1], (BATCH, 3))

    def loss(params, batch):
        h = batch["x"]
        for n in range(DEPTH):
            layer = params[f"l{n}"]
            h = activation(h @ layer["w"] + layer["b"])
        return jnp.mean((h @ params["out"]["w"] + params["out"]["b"] - batch["y"]) ** 2)

    return Network(loss, params, {"x": x, "y": y})


def recurrent() -> Network:
    """A plain recurrent network of `STEPS` steps, linear so that its gains are known."""
    keys = jax.random.split(jax.random.key(2), 5)
    params = {
        "cell": {"i": jax.random.normal(keys[0], (3, WIDTH)), "h": jnp.eye(WIDTH)},
        "out": dense(keys[1], WIDTH, 2, 1.0),
    }
    x = jax.random.normal(keys[2], (BATCH, STEPS, 3))
    y = jax.random.normal(keys[3], (BATCH, 2))

    def loss(params, batch):
        cell = params["cell"]

        def step(h, x):
            return x @ cell["i"] + h @ cell["h"], None

        h, _ = jax.lax.scan(step, jnp.zeros((BATCH, WIDTH)), batch["x"].swapaxes(0, 1))
        return jnp.mean((h @ params["out"]["w"] - batch["y"]) ** 2)

    return Network(loss, params, {"x": x, "y": y})


def scaled(params: Any, name: str, factor: float, leaf: str = "w") -> Any:
    """Parameters with one leaf of one layer multiplied."""
    return {**params, name: {**params[name], leaf: params[name][leaf] * factor}}


def shifted(params: Any, name: str, by: float) -> Any:
    """Parameters with something added to the biases of one layer."""
    return {**params, name: {**params[name], "b": params[name]["b"] + by}}
