"""Which search, with which options."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from pfn_optax.align.beam import beam, greedy, order_of
from pfn_optax.align.blocks import Matching, Permutations
from pfn_optax.align.coordinate import Search, descend
from pfn_optax.units import UnitSpec

WeightMethod = Literal["greedy", "beam", "coordinate"]
"""The methods that look at the weights alone."""

Method = Literal["greedy", "beam", "coordinate", "activation"]
"""All methods."""


@dataclass(frozen=True)
class Options:
    """How to search; checked.

    Attributes:
        method: the method.
        beam_width: partial alignments kept by `"beam"`.
        restarts: descents of `"coordinate"`.
        max_sweeps: largest number of rounds of a descent.
    """

    method: str
    beam_width: int
    restarts: int
    max_sweeps: int

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(
                f"method must be one of {', '.join(map(repr, get_args(Method)))}, got "
                f"{self.method!r}."
            )
        for name in ("beam_width", "restarts", "max_sweeps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")


def search(
    options: Options,
    spec: UnitSpec,
    matching: Matching,
    start: Permutations,
    seed: Sequence[int],
) -> Search:
    """Searches by one of the methods that look at the weights.

    Args:
        options: the options.
        spec: the spec.
        matching: the problem.
        start: where `"coordinate"` starts.
        seed: of all random choices.

    Returns:
        The best that was found.
    """
    if options.method == "greedy":
        return greedy(matching, order_of(spec))
    if options.method == "beam":
        return beam(
            matching,
            order_of(spec),
            seed,
            width=options.beam_width,
            max_sweeps=options.max_sweeps,
        )
    return _restarted(options, matching, start, seed)


def _restarted(
    options: Options, matching: Matching, start: Permutations, seed: Sequence[int]
) -> Search:
    """The best of several descents, the first from a given start, the others from random ones."""
    best = None
    for number in range(options.restarts):
        draw = np.random.default_rng([*seed, number])
        if number:
            start = {
                name: draw.permutation(size).astype(np.int32)
                for name, size in matching.sizes.items()
            }
        found = descend(matching, start, draw, max_sweeps=options.max_sweeps)
        if best is None or found.trace[-1] < best.trace[-1]:
            best = found
    assert best is not None
    return best
