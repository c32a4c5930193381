"""Trains recurrent networks from several seeds at several learning rates, all side by side."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.dynamics.recurrent import Gradient, Params, Task, accuracy, init, sequences
from experiments.errors import UsageError
from experiments.statistics import bootstrap_difference, paired_difference

LEARNING_RATES = (1e-3, 3e-3, 1e-2)
TUNING_SEEDS = (100, 101, 102, 103, 104)
"""By these the learning rate of each arm is picked; they count for nothing else."""
NUM_TESTED, NUM_LAST = 256, 3
NUM_UNITS, BATCH_SIZE, NUM_REPLICAS = 32, 16, 2
NOISE = (0.1, 0.02)

Record = Mapping[str, Any]
Change = Callable[[Params, jax.Array], Params]
Look = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class LearningExperiment:
    """What the commands have in common that train a recurrent network to remember."""

    seeds: int = 5
    """Networks of each arm and learning rate."""
    horizon: int = 100
    """Steps between the signs and the question."""
    gain: float = 2.5
    """Of the recurrent weights at the start; chaotic above 1."""
    rounds: int = 20
    """Training lasts a fixed number of steps for each of these."""
    json: Path | None = None
    """Where to write the comparison, if anywhere."""
    plot: Path | None = None
    """Where to draw it as a PNG, if anywhere."""
    run_dir: Path = Path("runs/learning")
    """Outcomes of each arm; resumed where it was left."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        for name, least in (("seeds", 2), ("rounds", NUM_LAST), ("horizon", 4)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}; got {getattr(self, name)}")

    @property
    def task(self) -> Task:
        """What is learnt."""
        return Task(NUM_UNITS, self.horizon, self.gain, BATCH_SIZE)

    @property
    def config(self) -> dict[str, Any]:
        """What determines the results."""
        return {name: getattr(self, name) for name in ("seeds", "horizon", "gain", "rounds")} | {
            "num_units": NUM_UNITS,
            "batch_size": BATCH_SIZE,
            "num_replicas": NUM_REPLICAS,
            "noise": list(NOISE),
            "learning_rates": list(LEARNING_RATES),
        }


class Course(NamedTuple):
    """What became of the networks, by round.

    Attributes:
        loss: f32[rounds], mean training loss (nats), with the noise of the method.
        accuracy: f32[rounds], of the network without noise, on new sequences, after the round.
        norm: f32[rounds], median norm of the gradient, before any clipping.
        seen: what `look` saw of the optimizer, leaves [rounds, ...].
    """

    loss: jax.Array
    accuracy: jax.Array
    norm: jax.Array
    seen: Any


def train(
    task: Task,
    gradient: Gradient,
    optimizer: Callable[[jax.Array, jax.Array], optax.GradientTransformation],
    *,
    seeds: Sequence[int],
    rounds: int,
    steps: int,
    noise: tuple[float, float] = (0.0, 0.0),
    before: Change = lambda params, key: params,
    between: Change = lambda params, key: params,
    look: Look = lambda state: (),
) -> Course:
    """Trains one network per learning rate and seed.

    Args:
        task: what to learn.
        gradient: how to get its gradient.
        optimizer: (learning rate, random key) -> optimizer.
        seeds: of parameters, sequences and noise; the same in every arm.
        rounds: after each of which there is a record.
        steps: of training in a round.
        noise: of the first and of the last round, in a geometric sequence.
        before: done to the parameters at the start.
        between: done to the parameters before every round.
        look: optimizer state -> what to record of it.

    Returns:
        The course, leaves [rates, seeds, rounds, ...].
    """
    first, last = noise
    levels = np.geomspace(first, last, rounds) if first else np.zeros(rounds)

    def run(rate, seed):
        own, other = jax.random.split(jax.random.key(seed))
        transformation = optimizer(rate, jax.random.fold_in(own, 1))
        params = before(init(task, own), jax.random.fold_in(own, 2))

        def one(carry, at):
            params, state = carry
            key, noise = at
            drawn, noisy = jax.random.split(key)
            examples = sequences(task, drawn, task.batch_size)
            value, gradients = gradient(params, examples, noisy, noise)
            updates, state = transformation.update(gradients, state, params)
            after: Any = optax.apply_updates(params, updates)
            return (after, state), (value, optax.tree.norm(gradients))

        def one_round(carry, at):
            key, noise = at
            params, state = carry
            carry = between(params, jax.random.fold_in(key, 0)), state
            keys = jax.random.split(key, steps)
            carry, (losses, norms) = jax.lax.scan(one, carry, (keys, jnp.full(steps, noise)))
            tested = sequences(task, jax.random.fold_in(key, 1), NUM_TESTED)
            params, state = carry
            right = accuracy(params, tested)
            return carry, Course(losses.mean(), right, jnp.median(norms), look(state))

        start = params, transformation.init(params)
        at = jax.random.split(other, rounds), jnp.float32(levels)
        return jax.lax.scan(one_round, start, at)[1]

    every = jax.vmap(jax.vmap(run, (None, 0)), (0, None))
    return jax.jit(every)(jnp.float32(LEARNING_RATES), jnp.asarray(seeds))


def adam(rate: jax.Array, num_steps: int) -> optax.GradientTransformation:
    """Adam with a learning rate that falls to zero along a cosine.

    At a constant rate a memory that is found is soon lost again, whatever the gradient.
    """
    decay = optax.cosine_decay_schedule(1.0, num_steps)
    return optax.adam(lambda count: rate * decay(count))


def as_record(course: Course) -> dict[str, Any]:
    """The curves as JSON values: lists [rates][seeds][rounds]."""
    named = {name: getattr(course, name) for name in ("loss", "accuracy", "norm")}
    return {
        name: np.asarray(leaf, np.float64).round(6).tolist() if name != "norm" else leaf.tolist()
        for name, leaf in named.items()
    }


class Picked(NamedTuple):
    """An arm at the learning rate that did best on the tuning seeds.

    Attributes:
        learning_rate: that rate.
        accuracy: f64[seeds, rounds], of the other seeds.
        loss: f64[seeds, rounds].
        norm: f64[seeds, rounds].
    """

    learning_rate: float
    accuracy: np.ndarray
    loss: np.ndarray
    norm: np.ndarray

    @property
    def final(self) -> np.ndarray:
        """f64[seeds], the mean accuracy after the last rounds."""
        return self.accuracy[:, -NUM_LAST:].mean(axis=1)


def pick(record: Record, learning_rate: float | None = None) -> Picked:
    """Picks the learning rate of an arm.

    Args:
        record: of `as_record`, whose last seeds are `TUNING_SEEDS`.
        learning_rate: one of `LEARNING_RATES` to take instead of the best.
    """
    number = len(TUNING_SEEDS)
    curves = {
        name: np.asarray(record[name], np.float64)  # JSON has null where a number is not finite
        for name in ("accuracy", "loss", "norm")
    }
    tuning = curves["accuracy"][:, -number:, -NUM_LAST:].mean(axis=(1, 2))
    best = int(np.argmax(tuning)) if learning_rate is None else LEARNING_RATES.index(learning_rate)
    own = {name: values[best, :-number] for name, values in curves.items()}
    return Picked(LEARNING_RATES[best], **own)


def by_rate(record: Record) -> list[float]:
    """Mean final accuracy, over the seeds that count, at every learning rate."""
    return [float(pick(record, rate).final.mean()) for rate in LEARNING_RATES]


def compare(treated: Picked, control: Picked) -> dict[str, Any]:
    """The difference of final accuracies, seed by seed, by bootstrap and by Student's t."""
    return {
        "bootstrap": bootstrap_difference(treated.final, control.final)._asdict(),
        "t": paired_difference(treated.final, control.final)._asdict(),
    }
