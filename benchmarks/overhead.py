"""What `pfn` costs per training step, beside the step itself and beside gradient clipping.

    python -m benchmarks.overhead [--json PATH] [--batch-size 128] [--repeats 21]

A ResNet-18 on CIFAR-shaped batches of noise. Timed in one process, in turns, medians:

- the whole training step (forward, backward, SGD with momentum), without PFN;
- the optimizer's update alone, compiled by itself with donated buffers, on the gradients of the
  first training steps, one after the other: SGD with momentum, the same behind
  `optax.clip_by_global_norm(1.0)` (the peer: it too reads every gradient once and scales it), and
  the same behind `pfn(graph=...)` on steps that do not diagnose and on steps that do.

The graphs: of layers (`graph_from_loss`), and of units (`unit_graph`) with about 1,000 nodes, also
with `warm_start=True`. There each timed diagnosis starts from the one before, a step earlier.

The cost of a transformation is its update minus the plain one. The amortised overhead at N = 50 is
((N - 1) x other step + diagnosing step) / N over the training step. Seconds to compile are those
from the optimizer to its compiled update, tracing included; drawing a graph is timed by itself.
"""

import itertools
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
import tyro
from flax import nnx

from benchmarks import tables
from benchmarks.records import environment, write
from benchmarks.timing import interleaved_medians
from experiments.resnet import resnet
from pfn_optax import FlowGraph, GraphWarning, graph_from_loss, pfn, unit_graph
from pfn_optax.graph import bound_to, layout_of

EVERY = 50
NEVER, ALWAYS = 2**30, 1


@dataclass(frozen=True)
class StepConfig:
    """The training step beside which things are timed.

    Attributes:
        batch_size: images per training step.
        num_steps: training steps, whose gradients the updates get and whose median time counts.
        width: channels of the first stage.
        stages: residual blocks of each stage.
    """

    batch_size: int = 128
    num_steps: int = 6
    width: int = 64
    stages: tuple[int, ...] = (2, 2, 2, 2)


@dataclass(frozen=True)
class Config(StepConfig):
    """What to time.

    Attributes:
        repeats: timed calls of each update; the median counts.
        num_blocks: chunks of channels per layer in the graph of units.
        json: where to write the numbers, if anywhere.
    """

    repeats: int = 21
    num_blocks: int = 64
    json: Path | None = None


class Training(NamedTuple):
    """A network at the start of its training.

    Attributes:
        loss: function of (params, rest, images, labels) to the loss and the next rest.
        params: its parameters.
        rest: running statistics of batch norm.
        batch: images and labels.
    """

    loss: Callable[..., Any]
    params: Any
    rest: Any
    batch: tuple[jax.Array, jax.Array]


class Update(NamedTuple):
    """A compiled update.

    Attributes:
        run: goes on with the next gradients; returns the new parameters.
        compile_seconds: what it took to have it.
    """

    run: Callable[[], Any]
    compile_seconds: float


def training(config: StepConfig) -> Training:
    """Initialises the network."""
    model = resnet(stages=config.stages, width=config.width, rngs=nnx.Rngs(0))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, rest, images, labels):
        model = nnx.merge(graphdef, params, rest, copy=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(model(images), labels)
        return losses.mean(), nnx.state(model, nnx.Not(nnx.Param))

    images = jax.random.normal(jax.random.key(0), (config.batch_size, 32, 32, 3))
    labels = jax.random.randint(jax.random.key(1), (config.batch_size,), 0, 10)
    return Training(loss, params, rest, (images, labels))


def gradients_of_steps(start: Training, num_steps: int) -> tuple[list[Any], float]:
    """Trains with plain SGD; the gradients of each step, and the median seconds of a step."""
    optimizer = optax.sgd(0.1, momentum=0.9)

    @jax.jit
    def step(params, rest, state):
        grads, rest = jax.grad(start.loss, has_aux=True)(params, rest, *start.batch)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), rest, state), grads

    carry = start.params, start.rest, optimizer.init(start.params)
    gradients = []

    def run():
        nonlocal carry
        carry, grads = step(*carry)
        gradients.append(grads)
        return carry

    seconds = interleaved_medians({"step": run}, num_steps - 1)["step"]  # the first compiles
    return gradients, seconds


def update_alone(
    transformation: optax.GradientTransformation, params: Any, gradients: list[Any]
) -> Update:
    """Compiles an update before SGD with momentum, which carries its state from call to call."""
    started = time.perf_counter()
    optimizer = optax.chain(transformation, optax.sgd(0.1, momentum=0.9))
    state = optimizer.init(params)

    def update(grads, state, params):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(update, donate_argnums=1).lower(gradients[0], state, params).compile()
    compile_seconds = time.perf_counter() - started
    following = itertools.cycle(gradients)

    def run():
        nonlocal state
        new_params, state = compiled(next(following), state, params)
        return new_params

    return Update(run, compile_seconds)


def sizes(graph: FlowGraph, params: Any) -> dict[str, int]:
    """Nodes, edges and blocks of a graph."""
    layout = layout_of(graph, params)
    network = bound_to(graph, layout).network
    return {
        "nodes": network.num_nodes,
        "edges": network.num_edges,
        "blocks": layout.num_blocks,
    }


def measure(config: Config) -> dict[str, Any]:
    """Times everything."""
    start = training(config)
    variables = start.params, start.rest, *start.batch
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GraphWarning)
        layers = graph_from_loss(start.loss, *variables, has_aux=True)
        started = time.perf_counter()
        units = unit_graph(start.loss, *variables, num_blocks=config.num_blocks, has_aux=True)
        draw_seconds = time.perf_counter() - started
    gradients, step_seconds = gradients_of_steps(start, config.num_steps)

    arms = {
        "layers": {"graph": layers},
        "units": {"graph": units},
        "units, warm": {"graph": units, "warm_start": True},
    }
    transformations = {
        "sgd": optax.identity(),
        "clip_by_global_norm": optax.clip_by_global_norm(1.0),
    }
    # Those that diagnose come first: they pay for what is kept of a network after its first use.
    for kind, every in (("diagnosing step", ALWAYS), ("other steps", NEVER)):
        for arm, options in arms.items():
            transformations[f"{arm}, {kind}"] = pfn(every=every, **options)
    updates = {
        name: update_alone(transformation, start.params, gradients)
        for name, transformation in transformations.items()
    }
    return {
        **environment(),
        "num_params": sum(leaf.size for leaf in jax.tree.leaves(start.params)),
        "batch_size": config.batch_size,
        "every": EVERY,
        "graphs": {"layers": sizes(layers, start.params), "units": sizes(units, start.params)},
        "draw_seconds": draw_seconds,
        "step_seconds": step_seconds,
        "update_seconds": interleaved_medians(
            {name: update.run for name, update in updates.items()}, config.repeats
        ),
        "compile_seconds": {name: update.compile_seconds for name, update in updates.items()},
    }


def main(config: Config) -> None:
    """Times everything and prints the tables."""
    record = measure(config)
    print(tables.overhead(record))
    write(record, config.json)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
