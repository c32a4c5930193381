"""Static arrays of a network, computed once on the host: rows, slots, labels.

Inner nodes (all but source and sink) are *rows*. Inner edges between the same two rows are merged
into one pair of antiparallel *arcs*. A *slot* is an arc seen from one of its ends: a row has one
slot for each neighbour. Rows with similar numbers of neighbours share a padded *bucket*, so that
a round of push-relabel is gathers and sums over columns (no scatter: the order of summation is
fixed, on any device) and one hub does not pad all the other rows to its width.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from pfn_optax.flow.network import FlowNetwork

UNREACHABLE = 2**30  # label of a row from which the sink cannot be reached
_BUCKET_COST = 4096  # slots of padding that cost about as much as the launches of one more bucket


class Bucket(NamedTuple):
    """Rows of similar degree; columns are rows, in order. All arrays i32[width, rows]."""

    head: np.ndarray  # row at the other end; a padding slot points at its own row
    out_arc: np.ndarray  # arc that leaves the row
    in_arc: np.ndarray  # its antiparallel arc


class Layout(NamedTuple):
    """Index arrays of a network.

    Channels number everything that edges merge into: `num_arcs` inner arcs (the two arcs of a
    pair lie `num_arcs / 2` apart), then one channel per row from the source, one per row into the
    sink, one for edges that no cut or flow needs, and an always empty one for padding slots.
    """

    num_rows: int
    num_arcs: int
    channel: np.ndarray  # i32[num_edges]
    buckets: tuple[Bucket, ...]
    first_slot: np.ndarray  # i32[num_arcs / 2], a pair's slot at its lower row, buckets raveled
    label: np.ndarray  # i32[num_rows], distance to the sink in edges
    depth: int  # largest label
    row: np.ndarray  # i32[num_nodes]; num_rows for the source, num_rows + 1 for the sink
    tail: np.ndarray  # i32[num_edges], node
    head: np.ndarray  # i32[num_edges], node
    is_direct: np.ndarray  # bool[num_edges], edges from the source straight to the sink

    @property
    def num_channels(self) -> int:
        """Number of channels, the two auxiliary ones included."""
        return self.num_arcs + 2 * self.num_rows + 2

    @property
    def num_slots(self) -> int:
        """Number of slots, padding included."""
        return sum(bucket.head.size for bucket in self.buckets)


@functools.lru_cache(maxsize=64)
def layout_of(network: FlowNetwork) -> Layout:
    """Computes the layout of a network; cached."""
    tails = np.asarray(network.tails, np.int64)
    heads = np.asarray(network.heads, np.int64)
    source, sink = network.source, network.sink
    num_rows = network.num_nodes - 2

    outer = np.isin(tails, (source, sink)) | np.isin(heads, (source, sink))
    inner = ~outer & (tails != heads)
    from_source = (tails == source) & (heads != source) & (heads != sink)
    into_sink = (heads == sink) & (tails != source) & (tails != sink)

    # Rows in order of degree, so that buckets are contiguous.
    low, high = np.minimum(tails, heads)[inner], np.maximum(tails, heads)[inner]
    pairs = np.unique(low * network.num_nodes + high)
    ends = np.stack([pairs // network.num_nodes, pairs % network.num_nodes])
    degree = np.bincount(ends.ravel(), minlength=network.num_nodes)
    degree[[source, sink]] = -1
    order = np.argsort(degree, kind="stable")[2:]
    row = np.empty(network.num_nodes, np.int32)
    row[order] = np.arange(num_rows)
    row[source], row[sink] = num_rows, num_rows + 1

    # Edge -> channel. The arcs of pair p are p (lower node to higher) and p + num_pairs.
    num_pairs = pairs.size
    num_arcs = 2 * num_pairs
    spare, empty = num_arcs + 2 * num_rows, num_arcs + 2 * num_rows + 1
    channel = np.full(tails.shape, spare, np.int32)
    channel[inner] = np.searchsorted(pairs, low * network.num_nodes + high)
    channel[inner] += np.where((tails > heads)[inner], num_pairs, 0)
    channel[from_source] = num_arcs + row[heads[from_source]]
    channel[into_sink] = num_arcs + num_rows + row[tails[into_sink]]

    # Slots in order of their row; `place` numbers them within it.
    slot_row, slot_head = row[ends.ravel()], row[ends[::-1].ravel()]
    out_arc = np.arange(num_arcs)
    by_row = np.argsort(slot_row, kind="stable")
    slot_row, slot_head, out_arc = slot_row[by_row], slot_head[by_row], out_arc[by_row]
    in_arc = (out_arc + num_pairs) % max(num_arcs, 1)
    degree = degree[order]
    place = np.arange(num_arcs) - np.repeat(np.cumsum(degree) - degree, degree)

    buckets, first_slot, offset = [], np.zeros(num_pairs, np.int32), 0
    for start, stop in bucket_bounds(degree):
        width, count = max(int(degree[stop - 1]), 1), stop - start
        head = np.tile(np.arange(start, stop, dtype=np.int32), (width, 1))
        arcs = np.full((2, width, count), empty, np.int32)
        here = (slot_row >= start) & (slot_row < stop)
        index = place[here], slot_row[here] - start
        head[index] = slot_head[here]
        arcs[0][index], arcs[1][index] = out_arc[here], in_arc[here]
        buckets.append(Bucket(head, *arcs))
        lower = here & (out_arc < num_pairs)
        first_slot[out_arc[lower]] = offset + place[lower] * count + slot_row[lower] - start
        offset += width * count

    distance = _distance_to(sink, tails, heads, network.num_nodes)
    label = np.empty(num_rows, np.int32)
    label[:] = distance[order]
    depth = int(max(label[label < UNREACHABLE], default=0))
    is_direct = (tails == source) & (heads == sink)
    return Layout(
        num_rows=num_rows,
        num_arcs=num_arcs,
        channel=channel,
        buckets=tuple(buckets),
        first_slot=first_slot,
        label=label,
        depth=depth,
        row=row,
        tail=tails.astype(np.int32),
        head=heads.astype(np.int32),
        is_direct=is_direct,
    )


def _distance_to(sink: int, tails: np.ndarray, heads: np.ndarray, num_nodes: int) -> np.ndarray:
    """Number of edges on the shortest path from each node to the sink."""
    distance = np.full(num_nodes, UNREACHABLE, np.int32)
    distance[sink], level = 0, 0
    while True:
        found = tails[(distance[heads] == level) & (distance[tails] == UNREACHABLE)]
        if not found.size:
            return distance
        level += 1
        distance[found] = level


def bucket_bounds(degree: np.ndarray) -> list[tuple[int, int]]:
    """Cuts ascending degrees into runs, minimising padded slots + a cost per bucket.

    The optimum is no worse than one bucket per power of two: at most twice the slots in use.
    """
    if not degree.size:
        return []
    widths, counts = np.unique(np.maximum(degree, 1), return_counts=True)
    ends = np.concatenate([[0], np.cumsum(counts)])
    best, choice = np.zeros(widths.size + 1), np.zeros(widths.size + 1, int)
    for j in range(1, widths.size + 1):
        costs = best[:j] + widths[j - 1] * (ends[j] - ends[:j]) + _BUCKET_COST
        choice[j] = np.argmin(costs)
        best[j] = costs[choice[j]]
    bounds, j = [], widths.size
    while j:
        bounds.append((int(ends[choice[j]]), int(ends[j])))
        j = choice[j]
    return bounds[::-1]
