"""Can a chaotic recurrent network learn to remember? Five gradients on the same task.

Every arm has the same optimizer (Adam, its learning rate falling to zero), learning rates, seeds,
sequences and number of steps; what differs is where the gradient comes from, and for flossing the
weights that it starts from.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import runs
from experiments.dynamics import learning, learning_figure
from experiments.dynamics.learning import LearningExperiment
from experiments.dynamics.recurrent import (
    Method,
    Params,
    Sequences,
    Task,
    exponents_loss,
    gradient_by,
    init,
    sequences,
    step,
)
from experiments.pieces import resumed
from pfn_optax.dynamics import lyapunov_spectrum

ARMS: dict[str, Method] = {
    "backprop": "backprop",
    "clipped": "backprop",
    "flossed": "backprop",
    "kernel": "kernel",
    "path kernel": "path_kernel",
}
CONTROL = "clipped"
STEPS_PER_ROUND = 40
FLOSSED_STEPS, FLOSSED_EXPONENTS, FLOSSED_SEQUENCES = 40, 2, 4
FLOSSING_BEFORE, FLOSSING_BETWEEN = (300, 3e-3), (5, 1e-4)
"""Number of steps and learning rate."""
NUM_BATCHES = 32
"""From so many gradients at the start their mean and spread are told."""


@dataclasses.dataclass(frozen=True)
class LongMemoryExperiment(LearningExperiment):
    """Train a chaotic recurrent network on delayed XOR by five gradients."""

    rounds: int = 20
    """Training lasts 40 steps for each of these."""
    run_dir: Path = Path("runs/long_memory")
    """Outcomes of each arm; resumed where it was left."""

    def run(self) -> None:
        """Train the arms that are left, then print, write and draw the comparison."""
        runs.open_run(self.run_dir, self.config, overwrite=self.overwrite)
        pieces = [(arm,) for arm in ARMS]
        records = dict(
            zip(ARMS, resumed(self.run_dir / "arms.jsonl", pieces, self._record), strict=True)
        )
        picked = {arm: learning.pick(record) for arm, record in records.items()}
        rows = summarise(picked, records)
        print(text(rows))
        if self.json:
            runs.write_json(self.json, {"config": self.config, "arms": rows})
        if self.plot:
            title = f"delayed XOR over {self.horizon} steps, gain {self.gain:g}"
            learning_figure.courses(picked, STEPS_PER_ROUND, title, self.plot)

    def _record(self, arm: str) -> dict[str, Any]:
        task, method = self.task, ARMS[arm]
        gradient = gradient_by(method, task, learning.NUM_REPLICAS)

        def optimizer(rate, key):
            del key
            clip = [] if arm == "backprop" else [optax.clip_by_global_norm(1.0)]
            return optax.chain(*clip, learning.adam(rate, self.rounds * STEPS_PER_ROUND))

        flossing: dict[str, Any] = {}
        if arm == "flossed":
            flossing = {
                "before": lambda params, key: floss(task, params, key, *FLOSSING_BEFORE),
                "between": lambda params, key: floss(task, params, key, *FLOSSING_BETWEEN),
            }
        course = learning.train(
            task,
            gradient,
            optimizer,
            seeds=(*range(self.seeds), *learning.TUNING_SEEDS),
            rounds=self.rounds,
            steps=STEPS_PER_ROUND,
            noise=(0.0, 0.0) if method == "backprop" else learning.NOISE,
            **flossing,
        )

        @jax.jit
        @jax.vmap
        def at_start(seed):
            own, _ = jax.random.split(jax.random.key(seed))
            before = flossing.get("before", lambda params, key: params)
            params = before(init(task, own), jax.random.fold_in(own, 2))
            keys = jax.random.split(own, NUM_BATCHES)

            def one(key):
                drawn, noisy = jax.random.split(key)
                examples: Sequences = sequences(task, drawn, learning.BATCH_SIZE)
                return gradient(params, examples, noisy, jnp.float32(learning.NOISE[0]))[1]

            return leading_exponent(task, params, own), signal_to_noise(jax.lax.map(one, keys))

        exponent, ratio = at_start(jnp.arange(self.seeds))
        measured = {"exponent": exponent.tolist(), "signal_to_noise": ratio.tolist()}
        return learning.as_record(course) | {"start": measured}


def floss(task: Task, params: Params, key: jax.Array, number: int, rate: float) -> Params:
    """Takes steps on the flossing loss alone, its learning rate falling to zero.

    The few largest exponents are brought to zero, so that what a gradient meets on its way back
    neither grows nor, in these directions, fades.
    """
    num_steps = min(FLOSSED_STEPS, task.horizon // 2)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(rate, number))
    )

    def one(carry, key):
        params, state = carry
        inputs = sequences(task, key, FLOSSED_SEQUENCES).inputs
        gradients = jax.grad(
            lambda params: exponents_loss(task, params, inputs, num_steps, FLOSSED_EXPONENTS)
        )(params)
        updates, state = optimizer.update(gradients, state)
        after: Any = optax.apply_updates(params, updates)
        return (after, state), None

    start: Any = params, optimizer.init(params)
    return jax.lax.scan(one, start, jax.random.split(key, number))[0][0]


def leading_exponent(task: Task, params: Params, key: jax.Array) -> jax.Array:
    """The largest exponent (nats per step) of the network on the task's noise, over 400 steps."""
    inputs = sequences(task._replace(horizon=500), key, 1).inputs[0]
    found = lyapunov_spectrum(
        lambda state, now: step(params, state, now),
        jnp.zeros(task.num_units),
        inputs=inputs,
        num_transient=100,
        num_exponents=1,
    )
    return found.exponents[0]


def signal_to_noise(gradients: Params) -> jax.Array:
    """Norm of the mean gradient over the spread of one, from leaves [batches, ...].

    What the spread adds to the norm of the mean is taken off; the ratio is 0 where nothing is left.
    """
    leaves = [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(gradients)]
    table = jnp.concatenate(leaves, axis=1)
    table = table / jnp.max(jnp.abs(table))  # squares of exploded gradients leave float32
    variance = jnp.var(table, axis=0, ddof=1).sum()
    signal = jnp.square(table.mean(axis=0)).sum() - variance / len(table)
    return jnp.sqrt(jnp.maximum(signal, 0) / variance)


def summarise(
    picked: dict[str, learning.Picked], records: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """A row per arm: final accuracies, difference to clipping, and what its gradients were like."""
    return [
        {
            "arm": arm,
            "learning_rate": own.learning_rate,
            "accuracy": own.final.tolist(),
            "mean_accuracy": float(own.final.mean()),
            "mean_accuracy_by_rate": learning.by_rate(records[arm]),
            f"over {CONTROL}": learning.compare(own, picked[CONTROL]),
            # Free of the luck of picking rates.
            f"over {CONTROL} at every rate": [
                learning.compare(
                    learning.pick(records[arm], rate), learning.pick(records[CONTROL], rate)
                )
                for rate in learning.LEARNING_RATES
            ],
            "first_norm": float(np.median(own.norm[:, 0])),
            "last_norm": float(np.median(own.norm[:, -1])),
            "accuracy_curves": own.accuracy.round(4).tolist(),
            "loss_curves": own.loss.round(4).tolist(),
            **records[arm]["start"],
        }
        for arm, own in picked.items()
    ]


def text(rows: list[dict[str, Any]]) -> str:
    """Formats the rows as a Markdown table."""
    lines = [
        f"| gradient | rate | final accuracy | at every rate | over {CONTROL} [95% bootstrap] | "
        f"over {CONTROL} at that rate | "
        "exponent at start | norm first, last | signal / noise at start |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        index = learning.LEARNING_RATES.index(row["learning_rate"])
        picked, alike = (
            "{mean:+.2f} [{low:+.2f}, {high:+.2f}]".format(**gain["bootstrap"])
            if row["arm"] != CONTROL
            else "-"
            for gain in (row[f"over {CONTROL}"], row[f"over {CONTROL} at every rate"][index])
        )
        lines.append(
            f"| {row['arm']} | {row['learning_rate']:g} | {row['mean_accuracy']:.3f} "
            f"({', '.join(f'{one:.2f}' for one in row['accuracy'])}) | "
            f"{', '.join(f'{one:.2f}' for one in row['mean_accuracy_by_rate'])} | "
            f"{picked} | {alike} | "
            f"{np.mean(row['exponent']):+.3f} | {row['first_norm']:.1e}, {row['last_norm']:.1e} | "
            f"{np.median(row['signal_to_noise']):.3f} |"
        )
    return "\n".join(lines)
