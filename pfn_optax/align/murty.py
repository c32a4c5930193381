"""The best assignments one after the other, best first (Murty 1968).

The solutions of a problem other than its best one fall into disjoint parts: part t agrees with it
on the rows before t and differs in row t. The best of all parts is the next solution. What the
best of a part costs is known without solving it: it differs from the solution by a cheapest cycle
of exchanges through row t (Chegireddy and Hamacher 1987), and a shortest-path pass over the rows
from the last to the first finds all of these. So each solution costs one assignment and one such
pass, rather than n assignments.
"""

import heapq
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pfn_optax.align.assignment import best_assignment


class _Part(NamedTuple):
    """The assignments that agree with one on its first rows, and avoid some pairs.

    Ordered by profit, then by the number, so that ties are deterministic.
    """

    loss: float
    number: int
    columns: np.ndarray
    num_fixed: int
    banned: frozenset[tuple[int, int]]


def best_assignments(profit: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """Yields every assignment of a square matrix, in order of falling profit.

    Lazy: each one costs O(n³) when it is asked for.

    Args:
        profit: f64[n, n].

    Yields:
        The sum of the profits, and the column of each row, i32[n].

    Example:
        >>> import numpy as np
        >>> from pfn_optax.align.murty import best_assignments
        >>> profit = np.array([[3.0, 1.0, 0.0], [1.0, 3.0, 0.0], [0.0, 2.0, 1.0]])
        >>> [(total, columns.tolist()) for total, columns in best_assignments(profit)][:2]
        [(7.0, [0, 1, 2]), (5.0, [0, 2, 1])]

    Reference:
        Murty, "An algorithm for ranking all the assignments in order of increasing cost",
        Operations Research 1968. Chegireddy and Hamacher, "Algorithms for finding k-best perfect
        matchings", Discrete Applied Mathematics 1987.
    """
    rows, numbers = np.arange(len(profit)), itertools.count()
    heap = [_Part(0.0, next(numbers), rows, 0, frozenset())]
    while heap:
        part = heapq.heappop(heap)
        columns = _solved(profit, part)
        yield float(profit[rows, columns].sum()), columns
        first, banned = part.num_fixed, part.banned
        for row, loss in _losses(profit, columns, first, banned):
            # Pairs are banned in the first free row alone: earlier ones are fixed.
            own = {pair for pair in banned if pair[0] == row} | {(row, int(columns[row]))}
            total = float(profit[rows, columns].sum()) - loss
            heapq.heappush(heap, _Part(-total, next(numbers), columns, row, frozenset(own)))


def _solved(profit: np.ndarray, part: _Part) -> np.ndarray:
    """The best assignment of a part."""
    first = part.num_fixed
    free = np.setdiff1d(np.arange(len(profit)), part.columns[:first])
    rest = profit[first:, free]
    for row, column in part.banned:
        rest[row - first, np.searchsorted(free, column)] = -np.inf
    return np.concatenate([part.columns[:first], free[best_assignment(rest)]]).astype(np.int32)


def _losses(
    profit: np.ndarray, columns: np.ndarray, first: int, banned: frozenset[tuple[int, int]]
) -> Iterator[tuple[int, float]]:
    """For each free row what is lost by giving it another column, earlier rows held.

    In the graph whose edge (i, j) is what is lost when row i takes the column of row j, an
    assignment is a set of cycles.
    """
    taken = profit[first:, columns[first:]]
    lost = np.diag(taken)[:, None] - taken
    place = {int(column): k for k, column in enumerate(columns[first:])}
    for row, column in banned:
        if column in place:
            lost[row - first, place[column]] = np.inf
    lost = _without_negative(lost)
    size = len(lost)
    np.fill_diagonal(lost, np.inf)
    # Shortest paths whose inner rows come after the one at hand.
    paths = lost.copy()
    for k in reversed(range(size)):
        loss = np.min(lost[k, k + 1 :] + paths[k + 1 :, k], initial=np.inf)
        if np.isfinite(loss):
            yield first + k, float(loss)
        np.minimum(paths, paths[:, k, None] + paths[k], out=paths)
        np.fill_diagonal(paths, 0)


def _without_negative(lost: np.ndarray) -> np.ndarray:
    """The same lengths of all cycles from edges that are not negative (Johnson's potentials)."""
    potential = np.zeros(len(lost))
    for _ in range(len(lost)):
        shorter = np.minimum(potential, (potential[:, None] + lost).min(axis=0))
        if np.array_equal(shorter, potential):
            break
        potential = shorter
    return np.maximum(lost + potential[:, None] - potential, 0)
