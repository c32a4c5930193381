"""Static arrays of a network, computed once on the host: rows, slots, labels.

The solver is written in terms of slots alone, so this is also where its two forms differ: padded
rows for any network, here, and tensors between layers (see `layers`).

Inner nodes (all but source and sink) are *rows*. Inner edges between the same two rows are merged
into one pair of antiparallel *arcs*. A *slot* is an arc seen from one of its ends: a row has one
slot for each neighbour. Rows with similar numbers of neighbours share a padded *bucket*, so that
a round of push-relabel is gathers and sums over columns (no scatter: the order of summation is
fixed, on any device) and one hub does not pad all the other rows to its width.
"""

from __future__ import annotations

import functools
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.flow.network import FlowNetwork

Slots = tuple[jax.Array, ...]  # arrays with one entry for each slot, padding included

UNREACHABLE = 2**30  # label of a row from which the sink cannot be reached
_BUCKET_COST = 4096  # slots of padding that cost about as much as the launches of one more bucket


class Residuals(NamedTuple):
    """Residual capacities by slot; `back` is empty where the form finds each arc in `out`."""

    out: Slots  # of the arc that leaves
    back: Slots  # of its antiparallel arc


class Form(Protocol):
    """What push-relabel and the search for cuts ask of an arrangement of rows and slots."""

    @property
    def num_rows(self) -> int:
        """Number of rows, padding included."""
        ...

    @property
    def num_arcs(self) -> int:
        """Number of inner arcs; the two arcs of a pair lie `num_arcs / 2` apart."""
        ...

    @property
    def num_channels(self) -> int:
        """Number of channels, the two auxiliary ones included."""
        ...

    @property
    def channel(self) -> np.ndarray:
        """Channel of each edge, i32[num_edges]."""
        ...

    @property
    def label(self) -> np.ndarray:
        """Distance of each row to the sink in edges, i32[num_rows]."""
        ...

    @property
    def depth(self) -> int:
        """The largest label of a row that reaches the sink."""
        ...

    @property
    def row(self) -> np.ndarray:
        """Row of each node, i32[num_nodes]; num_rows for the source, num_rows + 1 for the sink."""
        ...

    @property
    def tail(self) -> np.ndarray:
        """Node that each edge leaves, i32[num_edges]."""
        ...

    @property
    def head(self) -> np.ndarray:
        """Node that each edge enters, i32[num_edges]."""
        ...

    @property
    def is_direct(self) -> np.ndarray:
        """Whether an edge runs from the source straight to the sink, bool[num_edges]."""
        ...

    def residuals(self, channels: jax.Array) -> Residuals:
        """Capacities of channels as residuals of a network without flow."""
        ...

    def both(self, residuals: Residuals) -> tuple[Slots, Slots]:
        """Residuals of the arc that leaves and of its antiparallel arc, seen from each slot."""
        ...

    def stored(self, out: Slots, back: Slots) -> Residuals:
        """The inverse of `both`."""
        ...

    def pairs(self, residuals: Residuals) -> tuple[jax.Array, jax.Array]:
        """Residuals of the two arcs of each pair, f[num_arcs / 2] each."""
        ...

    def own(self, per_row: jax.Array) -> Slots:
        """What the row of each slot has; shapes that broadcast."""
        ...

    def heads(self, per_row: jax.Array) -> Slots:
        """What the row at the other end of each slot has; shapes that broadcast."""
        ...

    def sum(self, slots: Slots) -> jax.Array:
        """Sums over the slots of each row."""
        ...

    def min(self, slots: Slots) -> jax.Array:
        """Least label over the slots of each row."""
        ...

    def bits(self, slots: Slots) -> jax.Array:
        """Bits, of uint8, set in any slot of each row."""
        ...


class Bucket(NamedTuple):
    """Rows of similar degree; columns are rows, in order. All arrays i32[width, rows]."""

    head: np.ndarray  # row at the other end; a padding slot points at its own row
    out_arc: np.ndarray  # arc that leaves the row
    in_arc: np.ndarray  # its antiparallel arc


class Layout(NamedTuple):
    """Index arrays of a network, and the form of padded rows.

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

    def residuals(self, channels: jax.Array) -> Residuals:
        """See `Form`. Each residual is there twice, once at either end.

        Both copies go through the same arithmetic, so they stay equal, and a row can see what its
        neighbours push to it without fetching it from them.
        """
        out = tuple(channels[bucket.out_arc] for bucket in self.buckets)
        return Residuals(out, tuple(channels[bucket.in_arc] for bucket in self.buckets))

    def both(self, residuals: Residuals) -> tuple[Slots, Slots]:
        """See `Form`."""
        return residuals

    def stored(self, out: Slots, back: Slots) -> Residuals:
        """See `Form`."""
        return Residuals(out, back)

    def pairs(self, residuals: Residuals) -> tuple[jax.Array, jax.Array]:
        """See `Form`."""
        out, back = (jnp.concatenate([a.ravel() for a in slots]) for slots in residuals)
        return out[self.first_slot], back[self.first_slot]

    def own(self, per_row: jax.Array) -> Slots:
        """See `Form`; f[1, rows] for each bucket."""
        parts, start = [], 0
        for bucket in self.buckets:
            stop = start + bucket.head.shape[1]
            parts.append(per_row[None, start:stop])
            start = stop
        return tuple(parts)

    def heads(self, per_row: jax.Array) -> Slots:
        """See `Form`."""
        return tuple(per_row[bucket.head] for bucket in self.buckets)

    def sum(self, slots: Slots) -> jax.Array:
        """See `Form`."""
        return _join([a.sum(0) for a in slots])

    def min(self, slots: Slots) -> jax.Array:
        """See `Form`."""
        return _join([a.min(0) for a in slots])

    def bits(self, slots: Slots) -> jax.Array:
        """See `Form`."""
        return _join([jax.lax.reduce(a, jnp.uint8(0), jax.lax.bitwise_or, (0,)) for a in slots])


def _join(parts: list[jax.Array]) -> jax.Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


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
