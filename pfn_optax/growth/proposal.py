"""From the ranking of groups to sizes, within a budget; nothing is changed yet."""

import bisect
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pfn_optax.growth.ranking import Ranked, Ranking

Excess = Callable[[Mapping[str, int]], str]


@dataclass(frozen=True)
class Rule:
    """Which sizes are taken, and when.

    Attributes:
        factor: by what a group is multiplied, at most.
        chunk: what sizes are rounded up to a multiple of: so there are few of them.
        patience: diagnoses in a row that must find a group in the cut.
        max_groups: number of groups that grow at a time; None for all.

    Raises:
        ValueError: if one is out of range.
    """

    factor: float = 2.0
    chunk: int = 8
    patience: int = 2
    max_groups: int | None = None

    def __post_init__(self) -> None:
        """Checks the numbers."""
        if not 1 < self.factor < math.inf:
            raise ValueError(f"factor must be finite and above 1, got {self.factor!r}.")
        for name in ("chunk", "patience", "max_groups"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")

    def larger(self, size: int) -> range:
        """The sizes that a group may grow to, the smallest first."""
        chunk = self.chunk
        most = math.ceil(size * self.factor / chunk) * chunk
        return range((size // chunk + 1) * chunk, most + 1, chunk)

    def smaller(self, size: int) -> range:
        """The sizes that a group may shrink to, the largest first."""
        chunk = self.chunk
        least = max(math.ceil(size / self.factor / chunk), 1) * chunk
        return range((size - 1) // chunk * chunk, least - 1, -chunk)


class Proposal(NamedTuple):
    """What is to be changed.

    Attributes:
        sizes: the new number of units of each group that grows.
        cut: the groups at the cut, the one that has been there longest and deepest first.
        reasons: why, in words, one for each group or circumstance.
    """

    sizes: dict[str, int]
    cut: tuple[str, ...]
    reasons: tuple[str, ...]


def proposed(ranking: Ranking, widths: Mapping[str, int], rule: Rule, excess: Excess) -> Proposal:
    """Proposes sizes.

    Args:
        ranking: the groups at the cut.
        widths: the number of units of every group.
        rule: which sizes are taken.
        excess: from new sizes to what goes beyond the budget, in words.

    Returns:
        The proposal: all groups that have been in the cut for long enough grow by the factor, or as
        far as the budget goes, those at the front of the ranking first.
    """
    sizes: dict[str, int] = {}
    reasons = []
    for ranked in ranking.groups:
        name, width = ranked.group, widths[ranked.group]
        if ranked.persistence < rule.patience:
            reasons.append(
                f"{name} waits at {width} units: in the cut at {ranked.persistence} of "
                f"{rule.patience} diagnoses"
            )
            continue
        if rule.max_groups is not None and len(sizes) >= rule.max_groups:
            reasons.append(f"{name} waits at {width} units: others come before it")
            continue
        choice = rule.larger(width)
        lacks = functools.cache(lambda size, name=name: excess({**sizes, name: size}))
        fitting = [width, *choice][_num_fitting(choice, lacks)]
        above = next((size for size in choice if size > fitting), None)
        lack = f"{above} would take {lacks(above)}" if above else ""
        if fitting == width:
            reasons.append(f"{name} stays at {width} units: {lack}")
            continue
        sizes[name] = fitting
        bound = f" ({lack})" if lack else ""
        reasons.append(f"{name} grows from {width} to {fitting} units{bound}: {_evidence(ranked)}")
    if ranking.pinned:
        reasons.append(
            f"in the cut is {', '.join(ranking.pinned)}, where the narrower side is given by the "
            "data or cannot grow, so more units would not help"
        )
    return Proposal(sizes, tuple(ranked.group for ranked in ranking.groups), tuple(reasons))


def _num_fitting(choice: range, lacks: Callable[[int], str]) -> int:
    """How many of the sizes, the smallest first, are within the budget; the largest may well be."""
    if not lacks(choice[-1]):
        return len(choice)
    return bisect.bisect_left(choice, True, key=lambda size: bool(lacks(size)))


def _evidence(ranked: Ranked) -> str:
    times = f"{ranked.persistence} diagnoses in a row"
    times = "the last diagnosis" if ranked.persistence == 1 else times
    return f"in the cut at {times}, with {ranked.share:.0%} of its capacity"
