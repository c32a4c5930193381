"""The cut of what growth can widen: the outputs are as many as the task has classes.

A head of 10 classes passes 10 directions at most, however wide the group that it reads. So a cut
that counts directions stays at the head, and asks for ever more units that cannot help there.
"""

import itertools

import numpy as np

from experiments.growth.arms import Member
from experiments.growth.observers import options_of
from pfn_optax.report import snapshot

SUFFIX = ", head free"


def layer_capacities(mode: str, member: Member) -> dict[str, float]:
    """What each layer passes by a capacity: the sum over its blocks, by the layer's name."""
    known, layout, _, _ = snapshot(member.seen, member.params, **options_of(mode))
    capacities = np.asarray(known.pfn_capacities, np.float64)
    return {str(layer.path[0]): float(capacities[layer.blocks].sum()) for layer in layout.layers}


def group_capacities(
    mode: str, member: Member, *, is_head_free: bool = False
) -> tuple[float, dict[str, float]]:
    """What the chain passes, and each group: the scarcer of the layers before and after it.

    Args:
        mode: name of a capacity.
        member: the network.
        is_head_free: whether the head passes anything.

    Returns:
        The flow, and the capacities by group.
    """
    of_layer = layer_capacities(mode, member)
    if is_head_free:
        of_layer[list(of_layer)[-1]] = np.inf
    groups = {
        name: min(of_layer[name], of_layer[reader])
        for name, reader in itertools.pairwise(member.params)
    }
    return min(of_layer.values()), groups


def cut_below_head(mode: str, member: Member) -> list[str]:
    """The group to grow for the scarcest layer below the head: as `rank_groups`, the narrower one.

    Args:
        mode: name of a capacity.
        member: the network.

    Returns:
        The group; none before the first diagnosis.
    """
    if not np.asarray(member.seen.pfn_cut).any():
        return []
    of_layer = layer_capacities(mode, member)
    scarcest = min(list(of_layer)[:-1], key=lambda name: of_layer[name])
    number = list(of_layer).index(scarcest)
    beside = member.groups[max(number - 1, 0) : number + 1]
    # Of two as wide the one that the layer produces.
    return [min(reversed(beside), key=lambda name: member.spec.group(name).size)]
