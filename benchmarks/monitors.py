"""What the monitors of signal propagation cost per training step, beside the step itself.

    python -m benchmarks.monitors [--json PATH] [--batch-size 128] [--repeats 11]

A ResNet-18 on CIFAR-shaped batches of noise, as in `benchmarks.overhead`. Timed in one process, in
turns, medians:

- the whole training step (forward, backward, SGD with momentum), without monitors;
- the optimizer's update alone, on the gradients of the first steps: SGD with momentum, and the same
  before `propagation_monitor`, with and without `weights`, in steps that record and in others;
- `activation_monitor` alone: a record is a forward run of the model with taps, here on the whole
  batch and on a quarter of it; the plain forward run of the batch is its peer.

The cost of a monitor of gradients is its update minus the plain one. Amortised at N = 50:
((N - 1) x other step + recording step) / N, over the training step.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import optax
import tyro
from flax import nnx

from benchmarks import overhead, tables
from benchmarks.records import environment, write
from benchmarks.timing import interleaved_medians
from experiments.resnet import resnet
from pfn_optax.propagation import activation_monitor, activation_taps, propagation_monitor

EVERY = 50
NEVER, ALWAYS = 2**30, 1


@dataclass(frozen=True)
class Config(overhead.StepConfig):
    """What to time.

    Attributes:
        repeats: timed calls of each; the median counts.
        json: where to write the numbers, if anywhere.
    """

    repeats: int = 11
    json: Path | None = None


def updates(start: overhead.Training, gradients: list[Any]) -> dict[str, overhead.Update]:
    """The optimizer's updates, compiled: alone, and with monitors that record always or never."""
    transformations = {"sgd": optax.identity()}
    for name, weights in (("gradients", False), ("gradients and weights", True)):
        for kind, every in (("recording step", ALWAYS), ("other steps", NEVER)):
            transformations[f"{name}, {kind}"] = propagation_monitor(every=every, weights=weights)
    return {
        name: overhead.update_alone(transformation, start.params, gradients)
        for name, transformation in transformations.items()
    }


def records_of_activations(config: Config, start: overhead.Training) -> dict[str, Any]:
    """Forward runs, compiled: plain, and with taps and a monitor that records."""
    model = resnet(stages=config.stages, width=config.width, rngs=nnx.Rngs(0))
    graphdef, *_ = nnx.split(model, nnx.Param, ...)

    def predict(params, rest, images):
        return nnx.merge(graphdef, params, rest, copy=True)(images)

    images, _ = start.batch
    runs: dict[str, Any] = {}
    for name, rows in (
        ("activations", len(images)),
        ("activations of a quarter", len(images) // 4),
    ):
        args = start.params, start.rest, images[:rows]
        monitor = activation_monitor(activation_taps(predict, *args), every=ALWAYS)
        state = monitor.init(*args)
        record = jax.jit(monitor.update).lower(state, *args).compile()
        runs[f"{name}, recording step"] = lambda record=record, state=state, args=args: record(
            state, *args
        )
    args = start.params, start.rest, images
    forward = jax.jit(predict).lower(*args).compile()
    return {"plain forward run": lambda: forward(*args), **runs}


def measure(config: Config) -> dict[str, Any]:
    """Times everything."""
    start = overhead.training(config)
    gradients, step_seconds = overhead.gradients_of_steps(start, config.num_steps)
    compiled = updates(start, gradients)
    seconds = interleaved_medians(
        {name: update.run for name, update in compiled.items()}, config.repeats
    )
    runs = records_of_activations(config, start)
    return {
        **environment(),
        "num_params": sum(leaf.size for leaf in jax.tree.leaves(start.params)),
        "batch_size": config.batch_size,
        "every": EVERY,
        "step_seconds": step_seconds,
        "update_seconds": seconds,
        "forward_seconds": interleaved_medians(runs, config.repeats),
    }


def main(config: Config) -> None:
    """Times everything and prints the table."""
    record = measure(config)
    print(tables.monitors(record))
    write(record, config.json)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
