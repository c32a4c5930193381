"""Networks of one width trained side by side, beside loops over them.

    python -m benchmarks.ensembles [--json PATH] [--steps 200] [--repeats 3]

The setting of `python -m experiments loss-spectrum`: gradient descent of many starts, all losses
kept. Timed in turns, medians:

- side by side: one compiled scan over the steps of all starts;
- a loop of scans: one start after the other, each a call of one compiled scan;
- a loop of steps: one start after the other, each a loop over a jitted step, as one would write it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import tyro

from benchmarks import tables
from benchmarks.records import environment, write
from benchmarks.timing import interleaved_medians
from experiments.embedding.spectrum import descend, descend_all, start, step

RATE = 1e-3


@dataclass(frozen=True)
class Config:
    """What to time.

    Attributes:
        widths: numbers of hidden units.
        starts: networks of each width.
        steps: of each network.
        repeats: timed calls of each way; the median counts.
        json: where to write the numbers, if anywhere.
    """

    widths: tuple[int, ...] = (2, 10, 50, 200)
    starts: int = 100
    steps: int = 200
    repeats: int = 3
    json: Path | None = None


def ways(width: int, num_starts: int, num_steps: int) -> dict[str, Callable[[], Any]]:
    """Functions that train all starts and return what was trained, by how they do it."""
    params = start(width, num_starts)
    singles = list(params)
    one, single = jax.jit(descend, static_argnums=1), jax.jit(step)

    def steps(params: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        losses = []
        for _ in range(num_steps):
            params, loss = single(params, RATE)
            losses.append(loss)
        return params, losses

    return {
        "side by side": lambda: descend_all(params, num_steps, RATE),
        "loop of scans": lambda: [one(own, num_steps, RATE) for own in singles],
        "loop of steps": lambda: [steps(own) for own in singles],
    }


def main(config: Config) -> None:
    """Times everything and prints the table."""
    rows = [
        {
            "width": width,
            "seconds": interleaved_medians(
                ways(width, config.starts, config.steps), config.repeats
            ),
        }
        for width in config.widths
    ]
    record = {**environment(), "starts": config.starts, "steps": config.steps, "rows": rows}
    print(tables.ensembles(record))
    write(record, config.json)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
