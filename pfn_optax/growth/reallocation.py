"""Units taken from where capacity lies unused, to pay for those that the cut asks for."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from pfn_optax.growth.grow import Grown, widths
from pfn_optax.growth.proposal import Excess, Rule
from pfn_optax.growth.shrink import Shrunk
from pfn_optax.growth.slack import Slack


class Freed(NamedTuple):
    """A network with fewer units where there was slack.

    Attributes:
        network: the network.
        shrunk: units removed by group.
        reasons: why, in words, one for each group that was tried.
    """

    network: Grown
    shrunk: dict[str, int]
    reasons: tuple[str, ...]


def freed(
    network: Grown,
    wanted: Mapping[str, int],
    slacks: Iterable[Slack],
    rule: Rule,
    excess: Excess,
    shrink_by: Callable[[Grown, str, int, float], Shrunk],
    max_loss_increase: float,
) -> Freed:
    """Shrinks groups with slack, one after the other, until there is room for what is wanted.

    Args:
        network: the network.
        wanted: the new sizes of the groups that are to grow.
        slacks: the groups to shrink, the first one first.
        rule: which sizes are taken.
        excess: from new sizes to what goes beyond the budget, in words.
        shrink_by: shrinks a group of a network by a number of units within a bound of the loss.
        max_loss_increase: by how much all of it together may raise the loss.

    Returns:
        The smaller network, with as much room as could be made.
    """
    shrunk: dict[str, int] = {}
    reasons, left = [], max_loss_increase
    for slack in slacks:
        sizes = {**widths(network.spec), **wanted}
        if not excess(sizes):
            break
        name, width = slack.group, sizes[slack.group]
        choice = rule.smaller(width)
        if not choice or name in wanted:
            continue
        size = next((s for s in choice if not excess({**sizes, name: s})), choice[-1])
        try:
            smaller = shrink_by(network, name, width - size, left)
        except ValueError as error:  # units that cannot be merged, with a reason
            reasons.append(f"{name} stays at {width} units: {error}")
            continue
        change: Any = smaller.loss_change
        if not smaller.is_accepted:
            reasons.append(
                f"{name} stays at {width} units: with {size} the loss would change by "
                f"{change:+.3g}, of at most {left:+.3g}"
            )
            continue
        left -= max(change, 0.0)
        shrunk[name] = width - size
        spare = f"{slack.slack:.0%} of the capacity of {', '.join(slack.layers)} is unused"
        spare = spare if slack.layers else "no layer beside it is bounded by them"
        reasons.append(
            f"{name} shrinks from {width} to {size} units: {spare}, and the loss changes by "
            f"{change:+.3g}"
        )
        network = Grown(smaller.params, smaller.spec, smaller.optimizer_state, smaller.batch_stats)
    return Freed(network, shrunk, tuple(reasons))
