"""Random branched networks without biases: layers with ReLU, sums, concatenations, several heads.

Piecewise linear, so that the Jacobian at a point can be had by numpy alone.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Params = dict[str, np.ndarray]


class Step(NamedTuple):
    """One new value: `relu(x @ W)` for a layer, else a sum or a concatenation of two."""

    kind: str
    reads: tuple[int, ...]
    layer: str = ""


@dataclass(frozen=True)
class Branched:
    """A network: value 0 is the input, the output the last value times the head.

    Attributes:
        params: its matrices.
        steps: the further values in order.
        x: an input, f64[width].
    """

    params: Params
    steps: tuple[Step, ...]
    x: np.ndarray

    def logits(self, params: Any, x: Any) -> jax.Array:
        """The network for JAX, on a batch."""
        values = [x]
        for step in self.steps:
            read = [values[number] for number in step.reads]
            if step.kind == "layer":
                values.append(jax.nn.relu(read[0] @ params[step.layer]))
            elif step.kind == "add":
                values.append(read[0] + read[1])
            else:
                values.append(jnp.concatenate(read, axis=-1))
        return values[-1] @ params["head"]

    def loss(self, params: Any, x: Any, labels: Any) -> jax.Array:
        """Cross-entropy."""
        logits = jax.nn.log_softmax(self.logits(params, x))
        return -jnp.take_along_axis(logits, labels[:, None], axis=-1).mean()

    def jacobian(self) -> np.ndarray:
        """Of the output with respect to the input, f64[width, classes], forwards in numpy."""
        values = [(self.x, np.eye(len(self.x)))]
        for step in self.steps:
            read = [values[number] for number in step.reads]
            if step.kind == "layer":
                value, jacobian = (part @ self.params[step.layer] for part in read[0])
                values.append((value * (value > 0), jacobian * (value > 0)))
            elif step.kind == "add":
                values.append((read[0][0] + read[1][0], read[0][1] + read[1][1]))
            else:
                values.append(tuple(np.concatenate(parts, -1) for parts in zip(*read, strict=True)))
        return values[-1][1] @ self.params["head"]


def branched(seed: int, *, num_steps: int = 7) -> Branched:
    """Draws a network; about half of its matrices have a low rank."""
    random = np.random.default_rng(seed)
    widths, steps = [int(random.choice((4, 6)))], []
    params: Params = {}

    def matrix(fan_in: int, fan_out: int) -> np.ndarray:
        rank = int(random.integers(1, min(fan_in, fan_out) + 1))
        if random.random() < 0.5:
            rank = min(fan_in, fan_out)
        return random.normal(size=(fan_in, rank)) @ random.normal(size=(rank, fan_out))

    for _ in range(num_steps):
        recent = int(random.integers(max(0, len(widths) - 3), len(widths)))
        equal = [n for n, width in enumerate(widths) if width == widths[recent] and n != recent]
        kind = random.choice(("layer", "layer", "add", "concatenate"))
        if kind == "add" and equal:
            steps.append(Step("add", (recent, int(random.choice(equal)))))
            widths.append(widths[recent])
        elif kind == "concatenate" and len(widths) > 1:
            other = int(random.integers(0, len(widths)))
            steps.append(Step("concatenate", (recent, other)))
            widths.append(widths[recent] + widths[other])
        else:
            name = f"layer{len(params)}"
            widths.append(int(random.choice((3, 4, 6))))
            params[name] = matrix(widths[recent], widths[-1])
            steps.append(Step("layer", (recent,), name))
    params["head"] = matrix(widths[-1], 5)
    return Branched(params, tuple(steps), random.normal(size=widths[0]))
