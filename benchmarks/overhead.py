"""What `pfn` costs per training step, beside the step itself and beside gradient clipping.

    python -m benchmarks.overhead [--json PATH] [--batch-size 128] [--repeats 41]

A ResNet-20-sized network on CIFAR-shaped batches. Timed in one process, interleaved, medians:

- the whole training step (forward, backward, SGD with momentum), without PFN;
- the optimizer's update alone, compiled by itself with donated buffers: SGD with momentum, the same
  behind `optax.clip_by_global_norm(1.0)` (the peer: it too reads every gradient once and scales
  it), and the same behind `pfn(...)` on steps that do not diagnose and on steps that do.

The cost of a transformation is its update minus the plain one. The amortised overhead at N = 50 is
((N - 1) x other step + diagnosing step) / N over the training step.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx

from benchmarks import tables
from benchmarks.records import environment, write
from experiments.models import build
from pfn_optax import pfn

EVERY = 50


@dataclass(frozen=True)
class Config:
    """What to time.

    Attributes:
        batch_size: images per training step.
        repeats: timed calls of each function; the median counts.
        json: where to write the numbers, if anywhere.
    """

    batch_size: int = 128
    repeats: int = 41
    json: Path | None = None


def training_step(batch_size: int) -> tuple[Any, Callable[[], Any]]:
    """Returns the parameters of the network and one training step with plain SGD."""
    model = build("resnet", image_shape=(32, 32, 3), num_classes=10, rngs=nnx.Rngs(0))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    optimizer = optax.sgd(0.1, momentum=0.9)
    images = jax.random.normal(jax.random.key(0), (batch_size, 32, 32, 3))
    labels = jax.random.randint(jax.random.key(1), (batch_size,), 0, 10)

    def loss(params, rest):
        model = nnx.merge(graphdef, params, rest, copy=True)
        logits = model(images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), nnx.state(model, nnx.Not(nnx.Param))

    @jax.jit
    def step(params, rest, state):
        grads, rest = jax.grad(loss, has_aux=True)(params, rest)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), rest, state

    carry = [params, rest, optimizer.init(params)]

    def run():
        carry[:] = step(*carry)
        return carry[0]

    return params, run


def update_alone(optimizer: optax.GradientTransformation, params: Any) -> Callable[[], Any]:
    """Returns a call of the compiled update, carrying its state from call to call."""
    grads = jax.tree.map(
        lambda x: jax.random.normal(jax.random.key(x.size), x.shape, x.dtype) * 1e-2, params
    )
    state = [optimizer.init(params)]

    def update(grads, state, params):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(update, donate_argnums=1)

    def run():
        new_params, state[0] = compiled(grads, state[0], params)
        return new_params

    return run


def interleaved_medians(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Times all functions in turn, so that drifts of the machine meet them all; seconds."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        jax.block_until_ready(function())  # compile
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(samples)) for name, samples in times.items()}


def main(config: Config) -> None:
    """Times everything and prints the table."""
    params, step = training_step(config.batch_size)
    base = optax.sgd(0.1, momentum=0.9)

    def behind(transformation):
        return update_alone(optax.chain(transformation, base), params)

    never, always = 2**30, 1
    functions = {
        "sgd": update_alone(base, params),
        "clip_by_global_norm": behind(optax.clip_by_global_norm(1.0)),
        "pfn, other steps": behind(pfn(every=never)),
        "pfn, ema_window=5, unmeasured steps": behind(pfn(every=never, ema_window=5)),
        "pfn, diagnosing step": behind(pfn(every=always)),
        "pfn(capacity='norm'), diagnosing step": behind(pfn(every=always, capacity="norm")),
        "pfn(capacity='jacobian_rank'), diagnosing step": behind(
            pfn(every=always, capacity="jacobian_rank")
        ),
    }
    updates = interleaved_medians(functions, config.repeats)
    whole = interleaved_medians({"step": step}, max(5, config.repeats // 4))["step"]
    num_params = sum(jnp.size(leaf) for leaf in jax.tree.leaves(params))
    record = {
        **environment(),
        "num_params": int(num_params),
        "batch_size": config.batch_size,
        "every": EVERY,
        "step_seconds": whole,
        "update_seconds": updates,
    }
    print(tables.overhead(record))
    write(record, config.json)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
