"""Weight matching: one group after the other, all others held, until none can gain."""

from typing import NamedTuple

import numpy as np

from pfn_optax.align.assignment import best_assignment
from pfn_optax.align.blocks import Matching, Permutations


class Search(NamedTuple):
    """What a search found.

    Attributes:
        permutations: the permutations.
        trace: the objective at the start and after each step.
        is_converged: whether no group can gain by itself.
    """

    permutations: Permutations
    trace: tuple[float, ...]
    is_converged: bool


def descend(
    matching: Matching, start: Permutations, draw: np.random.Generator, *, max_sweeps: int
) -> Search:
    """Coordinate descent from given permutations; the objective never rises.

    A group is visited only if a neighbour has changed since its last visit, and of its products
    only those with that neighbour are computed, on the units that moved.

    Args:
        matching: the problem.
        start: where to start.
        draw: source of the order of the groups.
        max_sweeps: largest number of rounds over all groups.

    Returns:
        A local optimum, unless the rounds ran out; the trace has one entry per round.

    Reference:
        Ainsworth, Hayase, Srinivasa, "Git Re-Basin", ICLR 2023, algorithm 1.
    """
    permutations = dict(start)
    products = _Products(matching)
    names = [name for name, size in matching.sizes.items() if size > 1]
    trace, stale = [matching.value(permutations)], set(names)
    while stale and len(trace) <= max_sweeps:
        value = trace[-1]
        for number in draw.permutation(len(names)):
            name = names[number]
            if name in stale:
                stale.remove(name)
                gain = _improve(matching, products, name, permutations)
                value -= 2 * gain
                stale |= (matching.neighbours(name) & set(names)) if gain else set()
        trace.append(value)
    return Search(permutations, tuple(trace), not stale)


def _improve(
    matching: Matching, products: "_Products", name: str, permutations: Permutations
) -> float:
    """Moves one group to its best permutation, in place; returns the gain."""
    current = permutations[name]
    profit = products.profit(name, permutations)
    units = np.arange(len(current))
    held = profit[units, current]
    if (held >= profit.max(axis=1)).all():
        return 0.0  # every unit has its best partner already
    best = best_assignment(profit)
    gain = float(np.sum(profit[units, best] - held))
    # The profit counts a block with two axes of the group once for each, the other one held.
    squares = [
        (number, axis)
        for number, axis in matching.places[name]
        if name in matching.blocks[number].others(axis)
    ]
    for number, axis in squares:
        product = products.of(number, axis, permutations)
        gain -= float(np.sum(product[units, best] - product[units, current]))
    for number in dict.fromkeys(number for number, _ in squares):
        block = matching.blocks[number]
        gain += block.inner({**permutations, name: best}) - block.inner(permutations)
    if gain <= matching.tolerance:
        return 0.0
    permutations[name] = best
    return gain


class _Products:
    """Products of blocks at the permutations they were last asked for."""

    def __init__(self, matching: Matching):
        self._matching = matching
        self._known: dict[tuple[int, int], tuple[Permutations, np.ndarray]] = {}

    def profit(self, name: str, permutations: Permutations) -> np.ndarray:
        """Entry (i, j): the inner product of unit i of a and unit j of b, all others permuted."""
        profit = self._matching.fixed_profit(name).copy()
        for number, axis in self._matching.places[name]:
            if len(self._matching.blocks[number].groups) > 1:
                profit += self.of(number, axis, permutations)
        return profit

    def of(self, number: int, axis: int, permutations: Permutations) -> np.ndarray:
        """The product of one block."""
        block = self._matching.blocks[number]
        others = {name: permutations[name] for name in block.others(axis)}
        if (number, axis) not in self._known:
            product = block.product(axis, others)
        else:
            before, product = self._known[number, axis]
            num_moved = sum(int(np.sum(before[name] != others[name])) for name in others)
            if num_moved and len(block.groups) == 2 and 2 * num_moved < block.shape[1 - axis]:
                product = product + block.change(axis, before, others)
            elif num_moved:
                product = block.product(axis, others)
        self._known[number, axis] = others, product
        return product
