r"""Series-parallel reduction: edges in parallel add up, edges in series take their minimum.

A network made of these two compositions alone (a chain, residual blocks, parallel branches)
becomes a single edge, and its maximum flow a tree of sums and minima; of any other network a
smaller *core* remains. Which edges merge is known before any capacity is. So the tree is built
once, on the host, in levels of merges that do not depend on each other: their number is the
height to which compositions are nested, not the number of edges. Merges of similar size share a
padded rectangle, so that going up and down the tree is gathers and sums over columns.

No solution is lost. A flow of the core extends to the edges it was merged from, and so do both
extreme minimum cuts. Let a path $u \to v_1 \to \dots \to w$ have the least capacity $m > 0$, first
found on edge $k$ and last on edge $l$. The residual graph of a maximum flow reaches, from the
source, all of the path if it reaches both $u$ and $w$; $v_i$ with $i < k$ if it reaches $u$ alone,
for then the path is full; nothing if it does not reach $u$. Seen from the sink, the edge $l$ takes
the place of $k$. If $m = 0$, the two ends of the path know nothing of each other.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.flow.layout import bucket_bounds
from pfn_optax.flow.network import FlowNetwork

_MAX_MERGES = 24  # rectangles: each is compiled by itself; deeper nests are left to the core


class Bundles(NamedTuple):
    """Edges with the same ends, one bundle in each column; each bundle becomes an edge."""

    child: np.ndarray  # i32[width, bundles], edges
    is_used: np.ndarray  # bool[width, bundles], False for padding
    parent: np.ndarray  # i32[bundles], where the flow of a bundle is found (see `expand_flow`)


class Paths(NamedTuple):
    """Edges in series, one path in each column; each path becomes an edge."""

    child: np.ndarray  # i32[length, paths], edges; the last one of a path is repeated as padding
    position: np.ndarray  # i32[length, paths], 1 for the first edge of a path
    start: np.ndarray  # i32[paths], where the first node of a path is found (see `expand_sides`)
    stop: np.ndarray  # i32[paths], and its last


class Reduction(NamedTuple):
    """What a network reduces to, and the way back.

    Merged edges are numbered after the network's own, in the order in which they arise. On the
    way back the flows of edges and the sides of nodes come in another order, from the core
    outwards, that has no scatter in it; slots say where each one ends up.
    """

    merges: tuple[Bundles | Paths, ...]
    core: FlowNetwork
    core_edge: np.ndarray  # i32[core.num_edges], the edge, or merged edge, that each one is
    edge_slot: np.ndarray  # i32[num_edges]
    node_slot: np.ndarray  # i32[num_nodes]


class _Edges(NamedTuple):
    """Edges that are left, in no particular order."""

    number: np.ndarray
    tail: np.ndarray
    head: np.ndarray


class _Groups(NamedTuple):
    """Edges to be merged: one group after the other, in order of size."""

    is_series: bool
    edge: np.ndarray  # which of the edges that are left
    size: np.ndarray  # number of edges in each group


@functools.lru_cache(maxsize=64)
def reduction_of(network: FlowNetwork) -> Reduction:
    """Merges edges in parallel and in series, in turn, until nothing changes; cached."""
    edges = _Edges(
        np.arange(network.num_edges),
        np.array(network.tails, np.int64),
        np.array(network.heads, np.int64),
    )
    merges, inner_nodes = [], []  # with nodes and edge numbers for slots at first
    num_numbers, num_idle, find = network.num_edges, 0, (_find_bundles, _find_paths)
    while num_idle < 2 and len(merges) < _MAX_MERGES:
        groups = find[0](network, edges)
        find, num_idle = find[::-1], 0 if groups.size.size else num_idle + 1
        last = np.cumsum(groups.size) - 1
        tail = edges.tail[groups.edge[last - groups.size + 1]]
        head = edges.head[groups.edge[last]]
        number = num_numbers + np.arange(groups.size.size)
        for begin, end in bucket_bounds(groups.size):
            size = groups.size[begin:end]
            place = np.arange(size[-1])[:, None]
            edge = groups.edge[(last[begin:end] - size + 1) + np.minimum(place, size - 1)]
            child = edges.number[edge].astype(np.int32)
            if groups.is_series:
                position = np.minimum(place + 1, size).astype(np.int32)
                merges.append(Paths(child, position, tail[begin:end], head[begin:end]))
                inner_nodes.append(np.where(place + 1 < size, edges.head[edge], -1)[:-1])
            else:
                merges.append(Bundles(child, place < size, number[begin:end]))
                inner_nodes.append(np.empty(0, int))
        num_numbers += number.size
        is_left = np.ones(edges.number.size, bool)
        is_left[groups.edge] = False
        merged = (number, tail, head)
        edges = _Edges(*(np.append(a[is_left], b) for a, b in zip(edges, merged, strict=True)))
    return _with_slots(network, edges, merges, inner_nodes, num_numbers)


def _find_bundles(network: FlowNetwork, edges: _Edges) -> _Groups:
    """Edges that have both ends in common."""
    ends = edges.tail * network.num_nodes + edges.head
    _, bundle, size = np.unique(ends, return_inverse=True, return_counts=True)
    order = np.lexsort((bundle, size[bundle]))
    return _Groups(False, order[size[bundle[order]] > 1], np.sort(size[size > 1]))


def _find_paths(network: FlowNetwork, edges: _Edges) -> _Groups:
    """Paths through nodes with one edge in and one out, unless they close a cycle."""
    num_in, num_out = (np.bincount(a, minlength=network.num_nodes) for a in edges[1:])
    is_inner = (num_in == 1) & (num_out == 1)
    is_inner[[network.source, network.sink]] = False
    edge_out = np.zeros(network.num_nodes, np.int64)
    edge_out[edges.tail] = np.arange(edges.tail.size)

    # Walk each path from where it starts; a cycle of inner nodes has no start.
    inner, follows, head = is_inner.tolist(), edge_out.tolist(), edges.head.tolist()
    paths = []
    for edge in np.flatnonzero(~is_inner[edges.tail] & is_inner[edges.head]).tolist():
        path = [edge]
        while inner[head[path[-1]]]:
            path.append(follows[head[path[-1]]])
        if head[path[-1]] != edges.tail[edge]:
            paths.append(path)
    paths.sort(key=len)
    edge = np.array([edge for path in paths for edge in path], np.int64)
    return _Groups(True, edge, np.array([len(path) for path in paths], np.int64))


def _with_slots(
    network: FlowNetwork,
    edges: _Edges,
    merges: list[Bundles | Paths],
    inner_nodes: list[np.ndarray],
    num_numbers: int,
) -> Reduction:
    """Builds the core from the edges that are left and finds the way back from it."""
    ends = (edges.tail, edges.head, network.source, network.sink)
    nodes = np.unique(np.concatenate([*ends[:2], ends[2:]]))
    core = FlowNetwork(nodes.size, *(np.searchsorted(nodes, a) for a in ends))  # pyright: ignore

    edge_slot, num_edges = np.zeros(num_numbers, np.int32), core.num_edges
    edge_slot[edges.number] = np.arange(num_edges)
    # One slot more, for nodes without edges.
    node_slot, num_nodes = np.full(network.num_nodes, nodes.size, np.int32), nodes.size + 1
    node_slot[nodes] = np.arange(nodes.size)
    outwards = []
    for merge, inner in zip(reversed(merges), reversed(inner_nodes), strict=True):
        num_numbers -= merge.child.shape[1]
        number = num_numbers + np.arange(merge.child.shape[1])
        if isinstance(merge, Paths):
            edge_slot[merge.child] = edge_slot[number]  # edges in series carry the same flow
            start, stop = node_slot[merge.start], node_slot[merge.stop]
            outwards.append(merge._replace(start=start, stop=stop))
            slots = num_nodes + np.arange(inner.size).reshape(inner.shape)
            node_slot[inner[inner >= 0]] = slots[inner >= 0]
            num_nodes += inner.size
        else:
            slots = num_edges + np.arange(merge.child.size).reshape(merge.child.shape)
            edge_slot[merge.child[merge.is_used]] = slots[merge.is_used]
            outwards.append(merge._replace(parent=edge_slot[number]))
            num_edges += merge.child.size
    return Reduction(
        merges=tuple(reversed(outwards)),
        core=core,
        core_edge=edges.number.astype(np.int32),
        edge_slot=edge_slot[: network.num_edges],
        node_slot=node_slot,
    )


def collapse(reduction: Reduction, capacities: jax.Array) -> jax.Array:
    """Capacities of all edges, merged ones included, from those of the network's own."""
    for merge in reduction.merges:
        children = capacities[merge.child]
        if isinstance(merge, Paths):
            merged = children.min(0)
        else:
            merged = jnp.where(merge.is_used, children, 0).sum(0)
        capacities = jnp.concatenate([capacities, merged])
    return capacities


def expand_flow(reduction: Reduction, capacities: jax.Array, core_flow: jax.Array) -> jax.Array:
    """Extends a flow of the core to the network.

    Args:
        reduction: The reduction.
        capacities: What `collapse` returned.
        core_flow: f[core.num_edges].

    Returns:
        f[num_edges]. Parallel edges share in proportion to their capacities.
    """
    flow = core_flow
    for merge in reversed(reduction.merges):
        if isinstance(merge, Paths):
            continue
        whole = flow[merge.parent][None]
        weight = jnp.where(merge.is_used, capacities[merge.child], 0)
        # In an infinite bundle no edge counts for more than would do alone.
        is_infinite = jnp.isinf(weight.sum(0, keepdims=True))
        weight = jnp.where(is_infinite, jnp.minimum(weight, whole), weight)
        total = weight.sum(0, keepdims=True)
        used = jnp.where(total > 0, whole / jnp.where(total > 0, total, 1), 0)
        flow = jnp.concatenate([flow, (weight * used).ravel()])
    return flow[reduction.edge_slot]


def expand_sides(
    reduction: Reduction,
    capacities: jax.Array,
    core_sides: jax.Array,
    tolerances: jax.Array,
) -> jax.Array:
    """Extends the two extreme minimum cuts of the core to the network.

    Args:
        reduction: The reduction.
        capacities: What `collapse` returned.
        core_sides: bool[2, core.num_nodes], source sides, nearest the source and nearest the sink.
        tolerances: f[num_tolerances], relative differences up to which capacities in series
            count as equal.

    Returns:
        bool[num_tolerances, 2, num_nodes], an answer for each tolerance.
    """
    # A node without edges is neither reached from the source nor does it reach the sink.
    sides = jnp.concatenate([core_sides, np.array([[False], [True]])], 1)
    near, far = jnp.tile(sides[:, None], (1, tolerances.size, 1))
    for merge in reversed(reduction.merges):
        if isinstance(merge, Bundles):
            continue
        children = capacities[merge.child][None]
        least = children.min(1, keepdims=True)
        is_least = children <= least * (1 + tolerances[:, None, None])
        places = merge.position[None]
        first = jnp.where(is_least, places, len(merge.child)).min(1, keepdims=True)
        last = jnp.where(is_least, places, 0).max(1, keepdims=True)

        position = np.arange(1, len(merge.child))[None, :, None]
        start, stop = near[:, None, merge.start], near[:, None, merge.stop]
        joins = start & ((position < first) | ((least > 0) & stop))
        near = jnp.concatenate([near, joins.reshape(len(near), -1)], 1)
        start, stop = far[:, None, merge.start], far[:, None, merge.stop]
        joins = stop | ((position < last) & (start | (least == 0)))
        far = jnp.concatenate([far, joins.reshape(len(far), -1)], 1)
    return jnp.stack([near, far], 1)[..., reduction.node_slot]
