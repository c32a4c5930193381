"""What a growth step of the controller costs, beside a training step and the recompile it causes.

    python -m benchmarks.growth [--json PATH] [--batch-size 128] [--repeats 5]

A ResNet-18 on CIFAR-shaped batches of noise, as in `benchmarks.overhead`, after two diagnoses whose
cut runs through the second stage's entrance: two residual streams grow at once, by a quarter, which
changes most leaves of two stages. Behind `pfn`, SGD with momentum and Adam. Medians in one process,
of CPU seconds of all threads, which other work on the machine does not lengthen:

- once per run: tracing the groups of units (`unit_spec`), finding what the optimizer's state is
  made of (`state_kinds`);
- a growth step, `GrowthController.step`, with both known: of it the proposal (ranking, costs at
  other sizes) and `grow` alone. The first one also compiles small programs for the new shapes;
- the training step: a call once compiled, and the first call after growth. How many programs were
  compiled is what `jax.monitoring` reports.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import tyro
from flax import nnx

from benchmarks import overhead, tables
from benchmarks.records import environment, write
from experiments.resnet import resnet
from pfn_optax import GraphWarning, graph_from_loss, pfn
from pfn_optax.growth import Budget, GrowthController, cost_of, grow, state_kinds, widths
from pfn_optax.growth.modules import rebuilt
from pfn_optax.units import UnitSpec, unit_spec

OPTIMIZERS = {
    "SGD with momentum": lambda: optax.sgd(0.1, momentum=0.9),
    "Adam": lambda: optax.adam(1e-3),
}
_COMPILE = "/jax/core/compile/backend_compile_duration"


@dataclass(frozen=True)
class Config(overhead.StepConfig):
    """What to time.

    Attributes:
        repeats: timed calls of each; the median counts.
        json: where to write the numbers, if anywhere.
    """

    repeats: int = 5
    json: Path | None = None


class Compiled(NamedTuple):
    """What was compiled while something ran.

    Attributes:
        seconds: CPU seconds that all of it took.
        programs: number of programs compiled.
    """

    seconds: float
    programs: int


class Start(NamedTuple):
    """A network, a batch, its groups and its graph.

    Attributes:
        model: the module.
        batch: images and labels.
        spec: the groups of units.
        graph: the flow graph of the layers.
        cut: the layers at the entrance of the second stage.
    """

    model: Any
    batch: tuple[jax.Array, jax.Array]
    spec: UnitSpec
    graph: Any
    cut: tuple[str, ...]


_COMPILATIONS: list[str] = []


def _count(event: str, duration_secs: float, **_: Any) -> None:
    if event == _COMPILE:
        _COMPILATIONS.append(event)


jax.monitoring.register_event_duration_secs_listener(_count)


def timed(function: Callable[[], Any]) -> tuple[Any, Compiled]:
    """Runs a function once."""
    _COMPILATIONS.clear()
    started = time.process_time()
    result = jax.block_until_ready(function())
    seconds = time.process_time() - started
    return result, Compiled(seconds, len(_COMPILATIONS))


def median(function: Callable[[], Any], repeats: int) -> float:
    """Median CPU seconds of a call."""
    return statistics.median(timed(function)[1].seconds for _ in range(repeats))


def loss_of(graphdef: Any, params: Any, rest: Any, images: jax.Array, labels: jax.Array) -> Any:
    """The loss, and the next batch statistics."""
    model = nnx.merge(graphdef, params, rest, copy=True)
    losses = optax.softmax_cross_entropy_with_integer_labels(model(images), labels)
    return losses.mean(), nnx.state(model, nnx.Not(nnx.Param))


def prepared(config: Config) -> tuple[Start, float]:
    """Builds the network; also the seconds it takes to trace its groups."""

    def model():
        return resnet(stages=config.stages, width=config.width, rngs=nnx.Rngs(0))

    images = jax.random.normal(jax.random.key(0), (config.batch_size, 32, 32, 3))
    labels = jax.random.randint(jax.random.key(1), (config.batch_size,), 0, 10)
    evaluated = model()
    evaluated.eval()
    graphdef, *trees = nnx.split(evaluated, nnx.Param, ...)

    def predict(tree, images):
        return nnx.merge(graphdef, *tree)(images)

    spec, once = timed(lambda: unit_spec(predict, tuple(trees), images[:2], check=False))
    trained = model()
    graphdef, params, rest = nnx.split(trained, nnx.Param, ...)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GraphWarning)
        graph = graph_from_loss(
            lambda *args: loss_of(graphdef, *args), params, rest, images, labels, has_aux=True
        )
    block = f"layers/{2 + config.stages[0]}"  # behind the stem, its activation and the first stage
    cut = f"{block}/second/conv", f"{block}/projection/conv"
    return Start(trained, (images, labels), spec, graph, cut), once.seconds


def diagnosed(start: Start, optimizer: Any, params: Any) -> Any:
    """The optimizer's state after two steps whose cut is the given one."""

    def scaled(path, leaf):
        name = "/".join(str(key.key) for key in path if hasattr(key, "key"))
        return jnp.full_like(leaf, 1e-4 if name.startswith(start.cut) else 1.0)

    gradients = jax.tree_util.tree_map_with_path(scaled, params)
    state = optimizer.init(params)
    update = jax.jit(lambda state: optimizer.update(gradients, state, params)[1])
    return update(update(state))


def training_step(start: Start, model: Any, optimizer: Any) -> Callable[..., Any]:
    """The training step of a module, to be called with its parameters, statistics and state."""
    graphdef, *_ = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def step(params, rest, state):
        gradients, rest = jax.grad(lambda *args: loss_of(graphdef, *args), has_aux=True)(
            params, rest, *start.batch
        )
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), rest, state

    return step


def arm(config: Config, start: Start, inner: Any) -> dict[str, Any]:
    """Times everything with one optimizer."""
    _, params, rest = nnx.split(start.model, nnx.Param, ...)
    optimizer = optax.chain(
        pfn(capacity="norm", every=1, ema_decay=0.0, beta=0.0, graph=start.graph), inner
    )
    state = diagnosed(start, optimizer, params)
    kinds, kinds_once = timed(lambda: state_kinds(optimizer, params))
    budget = Budget(memory=2 * (cost_of(params, optimizer=optimizer).memory or 0))

    def controller():
        return GrowthController(
            start.spec,
            optimizer,
            budget=budget,
            factor=1.25,
            kinds=kinds,
            capacity="norm",
            graph=start.graph,
        )

    grown, first = timed(lambda: controller().step(params, state, batch_stats=rest))
    now = widths(start.spec)
    added = {name: size - now[name] for name, size in widths(grown.spec).items()}
    added = {name: number for name, number in added.items() if number}

    def grow_alone():
        return grow(
            params,
            start.spec,
            added,
            how="fresh",
            optimizer=optimizer,
            optimizer_state=state,
            kinds=kinds,
            batch_stats=rest,
            key=jax.random.key(0),
        ).params

    def whole_step():
        return controller().step(params, state, batch_stats=rest).params

    def propose():
        return controller().propose(params, state, batch_stats=rest).sizes

    seconds = {
        "step": median(whole_step, config.repeats),
        "proposal": median(propose, config.repeats),
        "grow": median(grow_alone, config.repeats),
    }
    step = training_step(start, start.model, optimizer)
    timed(lambda: step(params, rest, state))
    training = median(lambda: step(params, rest, state), config.num_steps)
    # As a training loop would: the same function of another module.
    wide = rebuilt(start.model, grown, {})
    wide_step = training_step(start, wide, optimizer)
    arguments = grown.params, grown.batch_stats, grown.optimizer_state
    _, again = timed(lambda: wide_step(*arguments))
    return {
        "kinds_seconds": kinds_once.seconds,
        "first_step": first._asdict(),
        "seconds": seconds,
        "training_step_seconds": training,
        "recompile": again._asdict(),
        "grown": added,
        "num_params": cost_of(params).params,
        "new_num_params": cost_of(grown.params).params,
    }


def measure(config: Config) -> dict[str, Any]:
    """Times everything."""
    start, spec_seconds = prepared(config)
    return {
        **environment(),
        "batch_size": config.batch_size,
        "spec_seconds": spec_seconds,
        "optimizers": {name: arm(config, start, make()) for name, make in OPTIMIZERS.items()},
    }


def main(config: Config) -> None:
    """Times everything and prints the table."""
    record = measure(config)
    print(tables.growth(record))
    write(record, config.json)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
