"""What a batch of models under `vmap` pays for its diagnoses, each with its own cut.

    python -m benchmarks.batches [--json PATH] [--repeats 5] [--models 1 4 16 64]

An MLP on digit-sized inputs, trained by SGD with momentum on one batch for all models. A run is
one diagnosis period of 50 training steps in a compiled loop, so its mean step is the amortised one.
Timed in one process, in turns, medians:

- plain: SGD with momentum, no diagnosis (the peer);
- in step: all models diagnose at the same steps, as they do where they started together;
- out of step: the diagnoses of the models are spread over the period, so some model diagnoses at
  most steps, and what one does all do;
- cond: the diagnosis behind a `lax.cond`, which `vmap` turns into a select: both branches run at
  every step.

On the chain of layers, which is solved without iteration, and on the graph of units, which is not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tyro

from benchmarks import tables
from benchmarks.records import environment, write
from benchmarks.timing import interleaved_medians
from pfn_optax import FlowGraph, pfn, unit_graph

EVERY = 50
SIZES = (64, 64, 64, 64, 10)
BATCH_SIZE, BLOCK_SIZE = 64, 16
NEVER = 2**30

Params = dict[str, dict[str, jax.Array]]


@dataclass(frozen=True)
class Config:
    """What to time.

    Attributes:
        models: sizes of the batch of models.
        repeats: timed periods of each kind; the median counts.
        json: where to write the numbers, if anywhere.
    """

    models: tuple[int, ...] = (1, 4, 16, 64)
    repeats: int = 5
    json: Path | None = None


def init(key: jax.Array) -> Params:
    """Draws the parameters of one model."""
    return {
        f"Dense_{index}": {
            "kernel": jax.random.normal(key, SIZES[index : index + 2]) * (2 / SIZES[index]) ** 0.5,
            "bias": jnp.zeros(SIZES[index + 1]),
        }
        for index, key in enumerate(jax.random.split(key, len(SIZES) - 1))
    }


def loss(params: Params, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross entropy of an MLP with ReLU."""
    *hidden, head = params.values()
    x = images
    for layer in hidden:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    logits = x @ head["kernel"] + head["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def behind_cond(graph: FlowGraph | None) -> optax.GradientTransformationExtraArgs:
    """Returns `pfn` with the usual conditional around its diagnosing update."""
    diagnosing, other = pfn(every=1, graph=graph), pfn(every=NEVER, graph=graph)

    def update(updates, state: Any, params=None, **_) -> Any:
        is_due = (state.pfn_step + 1) % EVERY == 0
        return jax.lax.cond(is_due, diagnosing.update, other.update, updates, state, params)

    return optax.GradientTransformationExtraArgs(other.init, update)


def out_of_step(state: Any, num_models: int) -> Any:
    """Moves the models' steps apart, so that their diagnoses spread over the period."""
    offsets = jnp.arange(num_models, dtype=jnp.int32) * EVERY // num_models
    return optax.tree.set(state, pfn_step=offsets)


def period(
    optimizer: optax.GradientTransformation,
    num_models: int,
    *,
    prepare: Callable[[Any, int], Any] = lambda state, _: state,
) -> Callable[[], Any]:
    """Returns a call that trains all models for one period, going on where it stopped."""
    images = jax.random.uniform(jax.random.key(1), (BATCH_SIZE, SIZES[0]))
    labels = jax.random.randint(jax.random.key(2), (BATCH_SIZE,), 0, SIZES[-1])

    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params, images, labels), state, params)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def steps(carry):
        return jax.lax.fori_loop(0, EVERY, lambda _, both: jax.vmap(step)(*both), carry)

    params = jax.vmap(init)(jax.random.split(jax.random.key(0), num_models))
    carry = [(params, prepare(jax.vmap(optimizer.init)(params), num_models))]

    def run():
        carry[0] = steps(carry[0])
        return carry[0]

    return run


def measure(num_models: int, repeats: int) -> dict[str, Any]:
    """Times every kind of update on one size of batch; ms per step of the whole batch."""
    sgd = optax.sgd(0.01, momentum=0.9)
    shapes = (jax.eval_shape(init, jax.random.key(0)),)
    batch = (
        jax.ShapeDtypeStruct((BATCH_SIZE, SIZES[0]), jnp.float32),
        jax.ShapeDtypeStruct((BATCH_SIZE,), jnp.int32),
    )
    units = unit_graph(loss, *shapes, *batch, block_size=BLOCK_SIZE)
    functions = {"plain": period(sgd, num_models)}
    for name, graph in (("layers", None), ("units", units)):
        own = optax.chain(pfn(every=EVERY, graph=graph), sgd)
        functions |= {
            f"{name}, in step": period(own, num_models),
            f"{name}, out of step": period(own, num_models, prepare=out_of_step),
            f"{name}, cond": period(optax.chain(behind_cond(graph), sgd), num_models),
        }
    seconds = interleaved_medians(functions, repeats)
    return {
        "models": num_models,
        "step_milliseconds": {name: 1e3 * time / EVERY for name, time in seconds.items()},
    }


def main(config: Config) -> None:
    """Times everything and prints the table."""
    rows = [measure(num_models, config.repeats) for num_models in config.models]
    record = {
        **environment(),
        "every": EVERY,
        "rows": rows,
    }
    print(tables.batches(record))
    write(record, config.json)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
