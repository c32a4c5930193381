"""Does PFN help where gradients come from another method than backpropagation?

`optax.chain(pfn(graph=...), optax.adam(rate))` on clipped backpropagation, the kernel and the path
kernel, beside Adam alone and beside the same multipliers on random blocks.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import runs
from experiments.dynamics import learning, learning_figure
from experiments.dynamics.learning import LearningExperiment
from experiments.dynamics.recurrent import (
    METHODS,
    Method,
    Task,
    gradient_by,
    init,
    loss,
)
from experiments.pieces import resumed
from pfn_optax import FlowGraph, graph_from_loss, pfn
from pfn_optax.partition import Partition, partition, scale_blocks

Arm = Literal["plain", "pfn", "random blocks"]
ARMS: tuple[Arm, ...] = ("plain", "pfn", "random blocks")
BLOCK_SIZE, STEPS_PER_ROUND = 8, 20
EVERY = 20
"""Steps between diagnoses: the last step of a round makes one."""
CAPACITIES = ("jacobian_rank", "norm")
"""The default, by which the arms go, and another one that is asked where the cut would be."""


@dataclasses.dataclass(frozen=True)
class PFNChaosExperiment(LearningExperiment):
    """PFN before Adam on gradients of three methods, for a recurrent network that must remember."""

    horizon: int = 20
    """Steps between the signs and the question."""
    gain: float = 1.5
    """Of the recurrent weights at the start; chaotic above 1."""
    rounds: int = 20
    """Training lasts 20 steps for each of these."""
    run_dir: Path = Path("runs/pfn_chaos")
    """Outcomes of each arm; resumed where it was left."""

    @property
    def config(self) -> dict[str, Any]:
        """What determines the results."""
        return super().config | {"block_size": BLOCK_SIZE, "every": EVERY}

    def run(self) -> None:
        """Train the arms that are left, then print, write and draw the comparison."""
        runs.open_run(self.run_dir, self.config, overwrite=self.overwrite)
        pieces = [(method, arm) for method in METHODS for arm in ARMS]
        records = resumed(self.run_dir / "arms.jsonl", pieces, self._record)
        rows = summarise(records)
        edges = [edge._asdict() for edge in graph(self.task).edges]
        print("graph: " + ", ".join(f"{e['tail']} -> {e['head']} by {e['layer']}" for e in edges))
        print(text(rows))
        if self.json:
            named = [[edge["tail"], edge["head"], edge["layer"]] for edge in edges]
            runs.write_json(self.json, {"config": self.config, "graph": named, "arms": rows})
        if self.plot:
            learning_figure.multipliers([row for row in rows if "over plain" in row], self.plot)

    def _record(self, method: Method, arm: Arm) -> dict[str, Any]:
        task = self.task
        course = learning.train(
            task,
            gradient_by(method, task, learning.NUM_REPLICAS),
            functools.partial(_optimizer, task, arm, self.rounds * STEPS_PER_ROUND),
            seeds=(*range(self.seeds), *learning.TUNING_SEEDS),
            rounds=self.rounds,
            steps=STEPS_PER_ROUND,
            noise=(0.0, 0.0) if method == "backprop" else learning.NOISE,
            look=lambda state: {
                capacity: state[0][number].pfn_cut for number, capacity in enumerate(CAPACITIES)
            },
        )
        shares = {
            capacity: _shares(np.asarray(cuts), layout(task))
            for capacity, cuts in course.seen.items()
        }
        return learning.as_record(course) | {"cut": shares, "arm": arm, "method": method}


@functools.cache
def graph(task: Task) -> FlowGraph:
    """The graph of the unrolled loss, traced."""
    shapes = jax.eval_shape(lambda: init(task, jax.random.key(0)))
    inputs = jax.ShapeDtypeStruct((task.batch_size, task.horizon, 1), jnp.float32)
    targets = jax.ShapeDtypeStruct((task.batch_size,), jnp.float32)
    return graph_from_loss(loss, shapes, inputs, targets)


@functools.cache
def layout(task: Task) -> Partition:
    """The blocks: eight units of a layer each; the head is one."""
    shapes = jax.eval_shape(lambda: init(task, jax.random.key(0)))
    return partition(shapes, block_size=BLOCK_SIZE)


class Reassigned(NamedTuple):
    """State of `on_random_blocks`.

    Attributes:
        key: of the blocks.
        inner: state of PFN.
    """

    key: jax.Array
    inner: Any


def on_random_blocks(
    diagnosis: optax.GradientTransformation, blocks: Partition, key: jax.Array
) -> optax.GradientTransformation:
    """PFN's multipliers, on blocks drawn anew at every diagnosis instead of those in the cut."""

    def start(params):
        return Reassigned(key, diagnosis.init(params))

    def update(updates, state, params=None):
        inner: Any
        _, inner = diagnosis.update(updates, state.inner, params)
        own = jax.random.fold_in(state.key, inner.pfn_diagnoses)
        drawn = jax.random.permutation(own, inner.pfn_multipliers)
        return scale_blocks(blocks, updates, drawn), Reassigned(state.key, inner)

    return optax.GradientTransformation(start, update)


def _optimizer(
    task: Task, arm: Arm, num_steps: int, rate: jax.Array, key: jax.Array
) -> optax.GradientTransformation:
    """Clipping, the arm, and Adam; in front, two PFNs that only look."""
    amplified: Callable[..., Any] = functools.partial(
        pfn, graph=graph(task), block_size=BLOCK_SIZE, every=EVERY
    )
    looking = optax.chain(*(amplified(capacity=capacity, beta=0.0) for capacity in CAPACITIES))
    own = {
        "plain": optax.identity,
        "pfn": amplified,
        "random blocks": lambda: on_random_blocks(amplified(), layout(task), key),
    }[arm]()
    return optax.chain(looking, optax.clip_by_global_norm(1.0), own, learning.adam(rate, num_steps))


def _shares(cuts: np.ndarray, blocks: Partition) -> dict[str, float]:
    """Share of the diagnoses, of all rates and seeds, with a layer in the cut bool[..., blocks]."""
    return {
        layer.name: float(cuts[..., layer.blocks].any(axis=-1).mean()) for layer in blocks.layers
    }


def summarise(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per method and arm: final accuracies, what the cut named, and what the arm gains."""
    picked = {(record["method"], record["arm"]): learning.pick(record) for record in records}
    plain = {method: own.learning_rate for (method, arm), own in picked.items() if arm == "plain"}
    rows = []
    for record in records:
        method, arm = record["method"], record["arm"]
        own = picked[method, arm]
        row = {
            "method": method,
            "arm": arm,
            "learning_rate": own.learning_rate,
            "accuracy": own.final.tolist(),
            "mean_accuracy": float(own.final.mean()),
            "mean_accuracy_by_rate": learning.by_rate(record),
            "mean_accuracy_of_all_rounds": float(own.accuracy.mean()),
            "cut": record["cut"],
        }
        if arm != "plain":
            row["over plain"] = learning.compare(own, picked[method, "plain"])
            # Free of the luck of picking rates.
            row["over plain at its rate"] = learning.compare(
                learning.pick(record, plain[method]), picked[method, "plain"]
            )
        if arm == "pfn":
            row["over random blocks"] = learning.compare(own, picked[method, "random blocks"])
        rows.append(row)
    return rows


def text(rows: list[dict[str, Any]]) -> str:
    """Formats the rows as a Markdown table; differences in points."""
    lines = [
        "| gradient | arm | rate | final accuracy | over plain [95% bootstrap] | "
        "over plain at its rate | over random blocks | layers in the cut, by capacity |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        gains = [
            "{:+.1f} [{:+.1f}, {:+.1f}]".format(
                *(100 * bound for bound in row[name]["bootstrap"].values())
            )
            if name in row
            else "-"
            for name in ("over plain", "over plain at its rate", "over random blocks")
        ]
        cuts = "; ".join(
            f"{capacity}: "
            + ", ".join(f"{layer} {share:.0%}" for layer, share in shares.items() if share)
            for capacity, shares in row["cut"].items()
        )
        lines.append(
            f"| {row['method']} | {row['arm']} | {row['learning_rate']:g} | "
            f"{row['mean_accuracy']:.3f} | {' | '.join(gains)} | {cuts} |"
        )
    return "\n".join(lines)
