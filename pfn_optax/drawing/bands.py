"""The bands of the picture: what is known of all parallel edges of one layer, added up."""

import functools
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.flow import MaxFlow, max_flow
from pfn_optax.report import Snapshot

_STRETCH = re.compile(r"\[\d+:\d+\]$")  # the units of a group: "Dense_0[16:32]"


@dataclass(frozen=True)
class Band:
    """Parallel edges of one layer, or a module whose layers are drawn as one.

    Attributes:
        tail: node nearer the loss.
        head: node nearer the data.
        name: path of the layer or module; "skip" for an identity.
        layers: names of the layers in it; none for an identity.
        flow: flow through it at the last diagnosis.
        capacity: capacity of all its edges; of a module, of its layers all together.
        saturation: flow / capacity, in [0, 1]; of a module, that of its fullest band.
        norm: gradient norm of all its blocks together.
        num_blocks: number of blocks.
        num_cut: how many of them are in the cut (or edges, of an identity).
        persistence: the longest of its blocks in the cut.
        multiplier: the largest of its blocks.
        members: indices of the bands that a module stands for; none for a band of its own.
    """

    tail: str
    head: str
    name: str
    layers: tuple[str, ...]
    flow: float
    capacity: float
    saturation: float
    norm: float
    num_blocks: int
    num_cut: int
    persistence: int
    multiplier: float
    members: frozenset[int] = frozenset()

    @property
    def is_identity(self) -> bool:
        """Whether it is a skip, which has no parameters."""
        return not self.layers


def value_of(node: str) -> str:
    """Returns the value that a group of units belongs to, the name before its stretch of units."""
    return _STRETCH.sub("", node)


def stretch_of(node: str) -> str:
    """Returns the stretch of units of a group, `"[0:16]"`; nothing for a node that is none."""
    return node[len(value_of(node)) :]


def bands_of(known: Snapshot, *, fold: bool) -> tuple[Band, ...]:
    """Adds up the parallel edges of each layer between two nodes.

    Args:
        known: the state and its graph.
        fold: whether the groups of units of one value are one node.

    Returns:
        The bands, layers first, in the order of the edges.

    Raises:
        ValueError: if the flow is not the one that the state found.
    """
    bound = known.bound
    capacities = np.asarray(bound.edge_capacities(known.state.pfn_capacities, known.rule))
    result = _solve(known, capacities)
    in_cut = np.where(
        bound.edge_block >= 0, np.append(known.state.pfn_cut, False)[bound.edge_block], result.cut
    )
    flow = np.nan_to_num(np.asarray(result.flow), nan=0.0, posinf=0.0)
    block_layer = np.append(known.layout.block_layer, -1)  # an identity has block -1
    parallel = defaultdict(list)
    for edge, ends in enumerate(zip(bound.network.tails, bound.network.heads, strict=True)):
        tail, head = (value_of(bound.nodes[n]) if fold else bound.nodes[n] for n in ends)
        parallel[tail, head, int(block_layer[bound.edge_block[edge]])].append(edge)
    bands = []
    for (tail, head, layer), edges in parallel.items():
        blocks = np.unique(bound.edge_block[edges]) if layer >= 0 else np.zeros(0, int)
        total, capacity = float(flow[edges].sum()), float(capacities[edges].sum())
        bands.append(
            Band(
                tail=tail,
                head=head,
                name=known.layout.layers[layer].name if layer >= 0 else "skip",
                layers=(known.layout.layers[layer].name,) if layer >= 0 else (),
                flow=total,
                capacity=capacity,
                saturation=_saturation(total, capacity),
                norm=float(np.linalg.norm(known.state.pfn_norms[blocks])),
                num_blocks=len(blocks),
                num_cut=int(
                    in_cut[edges].sum() if layer < 0 else known.state.pfn_cut[blocks].sum()
                ),
                persistence=int(known.state.pfn_persistence[blocks].max(initial=0)),
                multiplier=float(known.state.pfn_multipliers[blocks].max(initial=1.0)),
            )
        )
    return tuple(sorted(bands, key=lambda band: band.is_identity))


def merged(
    bands: tuple[Band, ...], members: Iterable[int], name: str, ends: tuple[str, str]
) -> Band:
    """Returns one band for a part of the network that has one way in and one way out.

    Args:
        bands: all bands of their own.
        members: indices of those in the part.
        name: name of the part.
        ends: its (tail, head).

    Returns:
        The band.
    """
    members = frozenset(members)
    inside = [bands[index] for index in sorted(members)]
    return Band(
        tail=ends[0],
        head=ends[1],
        name=name,
        layers=tuple(dict.fromkeys(layer for band in inside for layer in band.layers)),
        flow=sum(band.flow for band in inside if band.tail == ends[0]),
        capacity=sum(band.capacity for band in inside if not band.is_identity),
        saturation=max(band.saturation for band in inside),
        norm=float(np.linalg.norm([band.norm for band in inside])),
        num_blocks=sum(band.num_blocks for band in inside),
        num_cut=sum(band.num_cut for band in inside),
        persistence=max(band.persistence for band in inside),
        multiplier=max(band.multiplier for band in inside),
        members=members,
    )


def _solve(known: Snapshot, capacities: np.ndarray) -> MaxFlow:
    """The flow, which a state does not keep, with the minimum cut on the state's side.

    The side matters for the identities: the state knows which blocks are in the cut, but not which
    identities.
    """
    solve = functools.partial(
        max_flow, known.bound.network, jnp.asarray(capacities), return_flow=True
    )
    result = jax.device_get(solve())
    state, blocks = known.state, known.bound.edge_block
    if state.pfn_certified and not np.isclose(result.value, state.pfn_flow, rtol=1e-3):
        raise ValueError(
            f"the flow must be the state's, {state.pfn_flow:.4g}, but with these options it is "
            f"{result.value:.4g}: pass the capacity and graph that were given to pfn()."
        )
    expected = np.append(state.pfn_cut, False)[blocks]
    if (result.cut[blocks >= 0] == expected[blocks >= 0]).all():
        return result
    return jax.device_get(solve(side="sink"))


def _saturation(flow: float, capacity: float) -> float:
    if not np.isfinite(capacity):
        return 0.0
    return min(1.0, flow / capacity) if capacity > 0 else 1.0
