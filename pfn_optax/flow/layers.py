"""Layered networks: residuals as tensors between neighbouring layers, where rows need no gathers.

In an acyclic network the layer of a row is how many edges the longest path from it takes. What lies
between two neighbouring layers is a matrix, padded to the same width everywhere. An arc of it is
stored once: what leaves the upper end of a pair is what comes back at its lower end. The few arcs
that skip layers are slots of a padded bucket beside the matrices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.flow.layout import UNREACHABLE, Bucket, Form, Layout, Residuals, Slots, layout_of
from pfn_optax.flow.network import FlowNetwork

_MIN_ARCS = 5_000  # below, padded rows are as fast on two CPU cores
_MAX_PADDING = 1.5  # entries per arc in use; above, padded rows are as fast again


class Layers(NamedTuple):
    """The form of tensors; rows are numbered layer by layer, the farthest from the sink first.

    A row has three arrays of slots: towards the next layer and towards the previous one, both
    f[num_layers - 1, width, width]: upper row, lower row; and those of arcs that skip layers,
    f[degree, num_rows]. Fields that are not described are those of `Layout`.
    """

    num_layers: int
    width: int
    skips: Bucket  # of all rows; no slots where no arc skips a layer
    first_skip: np.ndarray  # i32[num_skips], the slot of each arc that skips, raveled
    channel: np.ndarray
    label: np.ndarray
    depth: int
    row: np.ndarray
    tail: np.ndarray
    head: np.ndarray
    is_direct: np.ndarray

    @property
    def num_rows(self) -> int:
        """Number of rows, padding included."""
        return self.num_layers * self.width

    @property
    def num_arcs(self) -> int:
        """Number of arcs, padding included: those to a later layer, then those back."""
        return 2 * (self.num_dense + self.first_skip.size)

    @property
    def num_dense(self) -> int:
        """Number of entries of the matrices, one for each pair of rows in neighbouring layers."""
        return (self.num_layers - 1) * self.width**2

    @property
    def num_channels(self) -> int:
        """Number of channels, the two auxiliary ones included."""
        return self.num_arcs + 2 * self.num_rows + 2

    def residuals(self, channels: jax.Array) -> Residuals:
        """See `Form`."""
        shape = (self.num_layers - 1, self.width, self.width)
        half = self.num_arcs // 2
        towards = channels[: self.num_dense].reshape(shape)
        backwards = channels[half : half + self.num_dense].reshape(shape)
        skips, skips_back = channels[self.skips.out_arc], channels[self.skips.in_arc]
        return Residuals((towards, backwards, skips), (skips_back,))

    def both(self, residuals: Residuals) -> tuple[Slots, Slots]:
        """See `Form`."""
        towards, backwards, skips = residuals.out
        (skips_back,) = residuals.back
        return (towards, backwards, skips), (backwards, towards, skips_back)

    def stored(self, out: Slots, back: Slots) -> Residuals:
        """See `Form`; of `back`, what says the same as `out` is never computed."""
        return Residuals(out, back[2:])

    def pairs(self, residuals: Residuals) -> tuple[jax.Array, jax.Array]:
        """See `Form`."""
        dense, skips = residuals.out[:2], (residuals.out[2], *residuals.back)
        out, back = (
            jnp.concatenate([a.ravel(), b.ravel()[self.first_skip]])
            for a, b in zip(dense, skips, strict=True)
        )
        return out, back

    def own(self, per_row: jax.Array) -> Slots:
        """See `Form`."""
        layer = per_row.reshape(self.num_layers, self.width)
        return layer[:-1, :, None], layer[1:, None, :], per_row[None]

    def heads(self, per_row: jax.Array) -> Slots:
        """See `Form`."""
        towards, backwards, _ = self.own(per_row)
        return backwards, towards, per_row[self.skips.head]

    def sum(self, slots: Slots) -> jax.Array:
        """See `Form`."""
        towards, backwards, skips = slots
        sums = _halving_sum(towards, 2), _halving_sum(backwards, 1)
        return self._join(jnp.add, sums, skips.sum(0), fill=0)

    def min(self, slots: Slots) -> jax.Array:
        """See `Form`."""
        towards, backwards, skips = slots
        least = towards.min(2), backwards.min(1)
        skipping = skips.min(0, initial=UNREACHABLE)
        return self._join(jnp.minimum, least, skipping, fill=UNREACHABLE)

    def bits(self, slots: Slots) -> jax.Array:
        """See `Form`."""
        upper, lower, skipping = (
            jax.lax.reduce(bits, jnp.uint8(0), jax.lax.bitwise_or, (axis,))
            for bits, axis in zip(slots, (2, 1, 0), strict=True)
        )
        return self._join(jnp.bitwise_or, (upper, lower), skipping, fill=0)

    def _join(
        self,
        combine: Callable[[jax.Array, jax.Array], jax.Array],
        dense: tuple[jax.Array, jax.Array],
        skipping: jax.Array,
        *,
        fill: int,
    ) -> jax.Array:
        """Combines what the slots of each row come to.

        The arrays towards the next layer leave out the last, those towards the previous the first.
        """
        none = jnp.full((1, self.width), fill, skipping.dtype)
        upper, lower = jnp.concatenate([dense[0], none]), jnp.concatenate([none, dense[1]])
        joined = combine(upper, lower).ravel()
        return combine(joined, skipping) if self.first_skip.size else joined


def _halving_sum(array: jax.Array, axis: int) -> jax.Array:
    """Sums by adding halves to each other: elementwise, so that a CPU computes it in vectors."""
    while array.shape[axis] % 2 == 0:
        half = array.shape[axis] // 2
        array = jax.lax.slice_in_dim(array, 0, half, axis=axis) + jax.lax.slice_in_dim(
            array, half, 2 * half, axis=axis
        )
    return array.sum(axis)


@functools.lru_cache(maxsize=64)
def form_of(network: FlowNetwork) -> Form:
    """The faster form of a network: tensors between its layers if it is large and layered."""
    layout = layout_of(network)
    if layout.num_arcs < _MIN_ARCS:
        return layout
    layers = layers_of(layout)
    if layers is None:
        return layout
    num_slots = 2 * layers.num_dense + layers.skips.head.size
    return layers if num_slots <= _MAX_PADDING * layout.num_arcs else layout


def layers_of(layout: Layout) -> Layers | None:
    """Arranges rows in layers; None where inner edges form a cycle or rows miss the sink."""
    is_inner = layout.channel < layout.num_arcs
    tail, head = layout.row[layout.tail], layout.row[layout.head]
    if not is_inner.any() or layout.label.max() >= UNREACHABLE:
        return None
    layer = _layer_of_rows(tail[is_inner], head[is_inner], layout.num_rows)
    if layer is None:
        return None

    num_layers = int(layer.max()) + 1
    counts = np.bincount(layer, minlength=num_layers)
    width = -(-int(counts.max()) // 8) * 8 if counts.max() > 8 else int(counts.max())
    order = np.argsort(layer, kind="stable")
    place = np.empty_like(layer)
    place[order] = np.arange(order.size) - np.repeat(np.cumsum(counts) - counts, counts)
    num_rows = num_layers * width
    renumbered = np.append(layer * width + place, [num_rows, num_rows + 1]).astype(np.int32)
    upper, lower = renumbered[tail], renumbered[head]

    # Pairs of rows: all between neighbouring layers, then those that skip layers.
    is_dense = is_inner & (upper // width + 1 == lower // width)
    is_skip = is_inner & ~is_dense
    num_dense = (num_layers - 1) * width**2
    skip_ends, skip_number = np.unique(
        np.stack([upper[is_skip], lower[is_skip]]), axis=1, return_inverse=True
    )
    num_pairs = num_dense + skip_ends.shape[1]

    # Channels that are not inner only move; the two auxiliary ones stay last.
    num_arcs = 2 * num_pairs
    channel = layout.channel - layout.num_arcs - 2 * layout.num_rows + num_arcs + 2 * num_rows
    outer = (layout.channel - layout.num_arcs) // layout.num_rows
    from_source, into_sink = ~is_inner & (outer == 0), ~is_inner & (outer == 1)
    between = upper * width + lower % width
    channel[is_dense] = between[is_dense]
    channel[is_skip] = num_dense + skip_number.ravel()
    channel[from_source] = (num_arcs + lower)[from_source]
    channel[into_sink] = (num_arcs + num_rows + upper)[into_sink]
    label = np.full(num_rows, UNREACHABLE, np.int32)
    label[renumbered[:-2]] = layout.label
    skips, first_skip = _skips(skip_ends, num_dense, num_pairs, num_rows)
    return Layers(
        num_layers=num_layers,
        width=width,
        skips=skips,
        first_skip=first_skip,
        channel=channel.astype(np.int32),
        label=label,
        depth=layout.depth,
        row=renumbered[layout.row],
        tail=layout.tail,
        head=layout.head,
        is_direct=layout.is_direct,
    )


def _layer_of_rows(tail: np.ndarray, head: np.ndarray, num_rows: int) -> np.ndarray | None:
    """Layers by the longest path to a row without a successor, the farthest first."""
    height = np.zeros(num_rows, int)
    for _ in range(num_rows):
        higher = height.copy()
        np.maximum.at(higher, tail, height[head] + 1)
        if (higher == height).all():
            return height.max() - height
        height = higher
    return None


def _skips(
    ends: np.ndarray, first_pair: int, num_pairs: int, num_rows: int
) -> tuple[Bucket, np.ndarray]:
    """Slots of the arcs between the rows of ends, i[2, num_skips], and the first slot of each."""
    num_skips = ends.shape[1]
    rows, heads = ends.ravel(), ends[::-1].ravel()
    degree = np.bincount(rows, minlength=num_rows)
    width = int(degree.max(initial=0))
    by_row = np.argsort(rows, kind="stable")
    place = np.empty_like(rows)
    place[by_row] = np.arange(rows.size) - np.repeat(np.cumsum(degree) - degree, degree)
    forth = first_pair + np.arange(num_skips)
    empty = 2 * num_pairs + 2 * num_rows + 1
    head = np.tile(np.arange(num_rows, dtype=np.int32), (width, 1))
    head[place, rows] = heads
    arcs = np.full((2, width, num_rows), empty, np.int32)
    arcs[0][place, rows] = np.append(forth, forth + num_pairs)
    arcs[1][place, rows] = np.append(forth + num_pairs, forth)
    return Bucket(head, *arcs), (place * num_rows + rows)[:num_skips].astype(np.int32)
