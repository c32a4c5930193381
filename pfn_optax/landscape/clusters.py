"""Units that point the same way."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from pfn_optax.paths import Path
from pfn_optax.units import Group, Member


class Clusters(NamedTuple):
    """Which old units the new ones of a group stand for.

    Attributes:
        members: for each new unit the old ones, the one that stays first; by falling amplitude.
        removed: old units of an amplitude next to nothing.
        kept: the units that stay, i64[new_size].
        mixing: what the new units contribute to each old one if parallel units are multiples of
            each other, f64[new_size, size].
    """

    members: tuple[tuple[int, ...], ...]
    removed: tuple[int, ...]
    kept: np.ndarray
    mixing: np.ndarray


def is_homogeneous(group: Group) -> bool:
    """Whether a unit whose incoming weights are multiplied by c > 0 computes a power of c more."""
    sides = [
        {member.exponent for member in group.members if bool(member.is_read) is side}
        for side in (False, True)
    ]
    return all(len(side) == 1 and not side & {None, 0} for side in sides)


def directions(group: Group, leaves: Mapping[Path, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The incoming and the outgoing weights of every unit.

    Args:
        group: the group.
        leaves: the parameters.

    Returns:
        f64[size, num_incoming] and f64[size, num_outgoing].
    """
    sides: dict[bool, list[np.ndarray]] = {False: [], True: []}
    for member in group.members:
        sides[bool(member.is_read)].append(_by_unit(leaves[member.path], group.size, member))
    return np.hstack(sides[False]), np.hstack(sides[True])


def cosines(incoming: np.ndarray) -> np.ndarray:
    """The cosine of every two rows, f64[size, size]; 0 where one of them is zero."""
    norms = np.linalg.norm(incoming, axis=1, keepdims=True)
    unit = incoming / np.where(norms > 0, norms, 1)
    return np.clip(unit @ unit.T, -1, 1)


def clusters_of(
    group: Group,
    leaves: Mapping[Path, np.ndarray],
    *,
    similarity: float,
    amplitude: float,
    size: int | None = None,
) -> Clusters:
    """Groups units all of which are alike, by complete linkage.

    Args:
        group: the group.
        leaves: the parameters.
        similarity: the least cosine within a cluster.
        amplitude: the share of the largest |a| |w| at and below which units are removed.
        size: the number of clusters to make, whatever their similarity.

    Returns:
        The clusters.

    Raises:
        ValueError: if there are fewer units of some amplitude than clusters to make.
    """
    incoming, outgoing = directions(group, leaves)
    norms = np.linalg.norm(incoming, axis=1)
    amplitudes = norms * np.linalg.norm(outgoing, axis=1)
    order = np.argsort(-amplitudes, kind="stable")
    # The first stays in any case: a layer has at least one unit.
    order = order[(amplitudes[order] > amplitude * amplitudes.max()) | (order == order[0])]
    if size is not None and not 1 <= size <= len(order):
        raise ValueError(
            f"group {group.name!r} has {len(order)} units with more than {amplitude} of the "
            f"largest amplitude, got the size {size}: ask for 1 to {len(order)}, or lower the "
            "amplitude."
        )
    cosine = cosines(incoming)
    is_odd = all(member.flips for member in group.members if not member.is_read)
    alike = (np.abs(cosine) if is_odd else cosine)[np.ix_(order, order)]
    labels = _complete_linkage(1 - alike, 1 - similarity, size)
    # The units are in falling order of amplitude, and so are the first of the clusters.
    first = np.unique(labels, return_index=True)[1]
    members = tuple(order[labels == labels[place]] for place in np.sort(first))
    kept = np.asarray([units[0] for units in members])
    mixing = np.zeros((len(kept), group.size))
    power = _power(group)
    for row, units in enumerate(members):
        signs = np.where(cosine[units[0], units] < 0, -1, 1) if is_odd else 1
        mixing[row, units] = signs * _ratios(norms[units]) ** power
    removed = np.setdiff1d(np.arange(group.size), order)
    return Clusters(
        tuple(tuple(units.tolist()) for units in members), tuple(removed.tolist()), kept, mixing
    )


def _by_unit(leaf: np.ndarray, size: int, member: Member) -> np.ndarray:
    """The entries of a stretch, f64[size, num_entries]."""
    stop = member.start + member.before * size * member.after
    stretch = np.moveaxis(leaf, member.axis, 0)[member.start : stop].astype(np.float64)
    stretch = stretch.reshape(member.before, size, -1)
    return np.moveaxis(stretch, 1, 0).reshape(size, -1)


def _power(group: Group) -> float:
    """By which power of its incoming weights a unit grows; 0 where there is none."""
    if not is_homogeneous(group):
        return 0.0
    powers = {bool(member.is_read): float(member.exponent or 0) for member in group.members}
    return -powers[True] / powers[False]


def _ratios(norms: np.ndarray) -> np.ndarray:
    """Norms over the first one; 1 where all are zero."""
    return norms / norms[0] if norms[0] > 0 else np.ones_like(norms)


def _complete_linkage(distances: np.ndarray, height: float, size: int | None) -> np.ndarray:
    """Labels of the clusters none of which is wider than the height, or of so many clusters."""
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    if len(distances) == 1:
        return np.zeros(1, int)
    tree = hierarchy.linkage(squareform(np.maximum(distances, 0), checks=False), "complete")
    if size is not None:
        return hierarchy.cut_tree(tree, n_clusters=size)[:, 0]
    # Rounding must not part units that are parallel.
    return hierarchy.fcluster(tree, height + 8 * np.finfo(float).eps, criterion="distance")
