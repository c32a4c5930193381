"""How right an answer is, and means over networks with 95% Wilson intervals."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.planted.bottlenecks import Case
from experiments.planted.methods import Answer
from pfn_optax.partition import Partition, block_energies


class Score(NamedTuple):
    """One answer against the truth.

    Attributes:
        recall: 1 if a right layer is named, else 0; in a healthy network, 1 if nothing else than
            the head is named (the all-clear).
        precision: share of the named blocks that lie in right layers; None where nothing is named.
        rank: place of the first right layer in the method's order, from 1.
        block_recall: share of the planted blocks that are named; None where the method tells layers
            only, or nothing is planted.
        block_precision: share of the named blocks that are planted; None also where none is named.
    """

    recall: float
    precision: float | None
    rank: int
    block_recall: float | None = None
    block_precision: float | None = None


def score(answer: Answer, case: Case, planted: np.ndarray | None = None) -> Score:
    """Scores an answer.

    Args:
        answer: what a method says.
        case: the network it says it of.
        planted: bool[num_blocks], the planted blocks of the method's partition, if it has one.

    Returns:
        The score.
    """
    is_right = [name in case.answers for name in answer.named]
    precision = float(np.mean(is_right)) if is_right else None
    is_found = all(is_right) if case.kind == "healthy" else any(is_right)
    rank = 1 + min(answer.order.index(name) for name in case.answers)
    if answer.blocks is None or planted is None or not planted.any():
        return Score(float(is_found), precision, rank)
    hits = float(np.sum(answer.blocks & planted))
    named = float(np.sum(answer.blocks))
    block_precision = hits / named if named else None
    return Score(float(is_found), precision, rank, hits / float(planted.sum()), block_precision)


def planted_blocks(layout: Partition, case: Case) -> np.ndarray:
    """The blocks at least half of whose weights are planted, bool[num_blocks]."""

    def count(kernels: dict[str, np.ndarray]) -> np.ndarray:
        tree = {
            name: {"kernel": kernels[name], "bias": np.zeros(own["bias"].shape)}
            for name, own in case.params.items()
        }
        return np.asarray(block_energies(layout, layout.leaves(tree)))

    ones = {name: np.ones(own["kernel"].shape) for name, own in case.params.items()}
    none = {name: np.zeros(own["kernel"].shape) for name, own in case.params.items()}
    return count(none | {case.name: case.mask}) >= 0.5 * count(ones)


class Share(NamedTuple):
    """A mean of numbers in [0, 1] with its 95% interval.

    Attributes:
        mean: the mean.
        low: lower end.
        high: upper end.
        count: how many numbers.
    """

    mean: float
    low: float
    high: float
    count: int


def share(numbers: Sequence[float]) -> Share:
    """Mean and 95% Wilson interval; for numbers between 0 and 1 it is wider than it need be.

    Args:
        numbers: one or more numbers in [0, 1].

    Returns:
        The share.

    Raises:
        ValueError: if there is none.

    Example:
        >>> [round(bound, 3) for bound in share([1.0, 1.0, 1.0, 0.0])]
        [0.75, 0.301, 0.954, 4]

    Reference:
        Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    count = len(numbers)
    if not count:
        raise ValueError("a share needs at least one number; got none")
    mean, z = float(np.mean(numbers)), 1.959964
    centre = (mean + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * math.sqrt(mean * (1 - mean) / count + (z / (2 * count)) ** 2) / (1 + z**2 / count)
    return Share(mean, max(centre - half, 0.0), min(centre + half, 1.0), count)
