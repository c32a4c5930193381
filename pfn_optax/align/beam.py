"""Greedy and beam search: the groups are matched one after the other, each against what is fixed.

A group is compared by those of its weights whose other axes are fixed already. Greedy takes the
best assignment; the beam keeps several partial alignments and, for each, as many of its best
assignments as are asked for.
"""

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pfn_optax.align.assignment import best_assignment
from pfn_optax.align.blocks import Matching, Permutations, pieces_of
from pfn_optax.align.coordinate import Search, descend
from pfn_optax.align.murty import best_assignments
from pfn_optax.units import UnitSpec


class Partial(NamedTuple):
    """An alignment of the first groups.

    Attributes:
        profit: the inner product of what they fix.
        permutations: theirs.
    """

    profit: float
    permutations: Permutations


def order_of(spec: UnitSpec) -> tuple[str, ...]:
    """The order in which groups are fixed: that of the data flow, as far as the weights tell.

    Next comes the group whose units have the most incoming weights from what is fixed or has no
    units (the inputs); weights with a negative exponent are known to be outgoing.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pfn_optax.align.beam import order_of
        >>> from pfn_optax.units import unit_spec
        >>> params = {"b": jnp.ones((9, 4)), "a": jnp.ones((4, 3)), "c": jnp.ones((3, 2))}
        >>> def predict(params, x):
        ...     return jax.nn.relu(jax.nn.relu(x @ params["b"]) @ params["a"]) @ params["c"]
        >>> order_of(unit_spec(predict, params, jnp.ones((1, 9))))
        ('b', 'a')
    """
    pieces, fixed = pieces_of(spec), []
    remaining = [group.name for group in spec.groups]
    while remaining:
        known = dict.fromkeys(remaining, 0)
        for piece in pieces:
            open_dims = [dim for dim in piece.grouped if dim.group not in fixed]
            if len(open_dims) == 1 and (open_dims[0].exponent or 0) >= 0:
                [dim] = open_dims
                known[str(dim.group)] += math.prod(d.size for d in piece.dims) // dim.size
        fixed.append(max(remaining, key=lambda name: known[name]))  # the first of equals
        remaining.remove(fixed[-1])
    return tuple(fixed)


def greedy(matching: Matching, order: Sequence[str]) -> Search:
    """Fixes one group after the other by its best assignment.

    Args:
        matching: the problem.
        order: the groups in order.

    Returns:
        The alignment; the trace has one entry per group, those to come as they were.
    """
    permutations: Permutations = {}
    trace = [matching.value(matching.identity)]
    for name in order:
        permutations[name] = best_assignment(_profit(matching, name, permutations))
        trace.append(matching.value({**matching.identity, **permutations}))
    return Search(permutations, tuple(trace), is_converged=False)


def beam(
    matching: Matching, order: Sequence[str], seed: Sequence[int], *, width: int, max_sweeps: int
) -> Search:
    """Beam search over the best assignments of each group, polished by coordinate descent.

    A wider beam is never worse: place i of the beam is filled by what the places up to i of the
    beam before lead to, and each full alignment is polished with a random order of its own; so the
    beam of width w is the beginning of that of width w + 1.

    Args:
        matching: the problem.
        order: the groups in order.
        seed: of the polishing.
        width: number of partial alignments kept.
        max_sweeps: of the polishing.

    Returns:
        The best of the polished alignments.

    Reference:
        Lemons, Linares Lopez, Holte, Ruml, "Beam search: faster and monotonic", ICAPS 2022.
    """
    places = [Partial(0.0, {})]
    for name in order:
        places = _next_places(
            places, lambda partial, name=name: children(matching, name, partial), width
        )
    polished = (
        descend(
            matching,
            partial.permutations,
            np.random.default_rng([*seed, place]),
            max_sweeps=max_sweeps,
        )
        for place, partial in enumerate(places)
    )
    return min(polished, key=lambda search: search.trace[-1])


def _next_places(
    places: Sequence[Partial], longer: Callable[[Partial], Iterator[Partial]], width: int
) -> list[Partial]:
    """Place i gets the best child of the places 1, ..., i that is not taken."""
    heap: list[tuple[float, int, Partial, Iterator[Partial]]] = []
    chosen: list[Partial] = []
    families: list[Iterator[Partial]] = []
    number = 0

    def push(family: Iterator[Partial]) -> None:
        nonlocal number
        if (child := next(family, None)) is not None:
            heapq.heappush(heap, (-child.profit, number, child, family))
            number += 1

    for place in range(width):
        if place < len(places):
            push(longer(places[place]))
        for family in families:
            push(family)
        families.clear()
        if not heap:
            break
        *_, child, family = heapq.heappop(heap)
        chosen.append(child)
        families.append(family)  # its next child is found only if another place needs it
    return chosen


def children(matching: Matching, name: str, partial: Partial) -> Iterator[Partial]:
    """Yields a partial alignment with one group more, by the best assignment first.

    Args:
        matching: the problem.
        name: the group.
        partial: the alignment of the groups before.

    Yields:
        Longer alignments. The assignments come in order of what they gain with the others held; a
        block with two axes of the group, which is then fixed as well, is added to that.
    """
    fixed = partial.permutations
    for profit, columns in best_assignments(_profit(matching, name, fixed)):
        after = {**fixed, name: columns}
        completed = (
            block.inner(after)
            for number, axis in matching.places[name]
            if name in (block := matching.blocks[number]).others(axis)
            and block.groups.index(name) == axis
            and set(block.groups) <= set(after)
        )
        yield Partial(partial.profit + profit + sum(completed), after)


def _profit(matching: Matching, name: str, fixed: Permutations) -> np.ndarray:
    """The inner products of units, by the weights whose other axes are fixed."""
    profit = matching.fixed_profit(name).copy()
    for number, axis in matching.places[name]:
        block = matching.blocks[number]
        if len(block.groups) > 1 and set(block.others(axis)) <= set(fixed):
            profit += block.product(axis, fixed)
    return profit
