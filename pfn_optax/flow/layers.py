"""Layered networks: residuals as tensors between neighbouring layers, where rows need no gathers.

If every inner edge leads one step nearer to the sink, rows with the same distance are a layer, and
what lies between two layers is a matrix; layers are padded to the same width. An arc is stored
once: what leaves the upper end of a pair is what comes back at its lower end.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.flow.layout import UNREACHABLE, Form, Layout, Residuals, Slots, layout_of
from pfn_optax.flow.network import FlowNetwork

_MIN_ARCS = 10_000  # below, padded rows are as fast on two CPU cores
_MAX_PADDING = 1.5  # entries per arc in use; above, padded rows are as fast again


class Layers(NamedTuple):
    """The form of tensors; rows are numbered layer by layer, the farthest from the sink first.

    A row has two arrays of slots, towards the next layer and towards the previous one, both
    f[num_layers - 1, width, width]: upper row, lower row. Fields are those of `Layout`.
    """

    num_layers: int
    width: int
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
        """Number of entries of the two tensors: arcs to the next layer, then arcs back."""
        return 2 * (self.num_layers - 1) * self.width**2

    @property
    def num_channels(self) -> int:
        """Number of channels, the two auxiliary ones included."""
        return self.num_arcs + 2 * self.num_rows + 2

    def residuals(self, channels: jax.Array) -> Residuals:
        """See `Form`."""
        shape = (2, self.num_layers - 1, self.width, self.width)
        return Residuals(tuple(channels[: self.num_arcs].reshape(shape)), ())

    def both(self, residuals: Residuals) -> tuple[Slots, Slots]:
        """See `Form`."""
        return residuals.out, residuals.out[::-1]

    def stored(self, out: Slots, back: Slots) -> Residuals:
        """See `Form`; `back` says the same as `out` and is never computed."""
        del back
        return Residuals(out, ())

    def pairs(self, residuals: Residuals) -> tuple[jax.Array, jax.Array]:
        """See `Form`."""
        towards, backwards = residuals.out
        return towards.ravel(), backwards.ravel()

    def own(self, per_row: jax.Array) -> Slots:
        """See `Form`."""
        layer = per_row.reshape(self.num_layers, self.width)
        return layer[:-1, :, None], layer[1:, None, :]

    def heads(self, per_row: jax.Array) -> Slots:
        """See `Form`."""
        return self.own(per_row)[::-1]

    def sum(self, slots: Slots) -> jax.Array:
        """See `Form`."""
        towards, backwards = slots
        sums = _halving_sum(towards, 2), _halving_sum(backwards, 1)
        towards, backwards = self._by_layer(*sums, fill=0)
        return (towards + backwards).ravel()

    def min(self, slots: Slots) -> jax.Array:
        """See `Form`."""
        towards, backwards = slots
        least = self._by_layer(towards.min(2), backwards.min(1), fill=UNREACHABLE)
        return jnp.minimum(*least).ravel()

    def bits(self, slots: Slots) -> jax.Array:
        """See `Form`."""
        parts = [
            jax.lax.reduce(a, jnp.uint8(0), jax.lax.bitwise_or, (axis,))
            for a, axis in zip(slots, (2, 1), strict=True)
        ]
        return jnp.bitwise_or(*self._by_layer(*parts, fill=0)).ravel()

    def _by_layer(
        self, upper: jax.Array, lower: jax.Array, *, fill: int
    ) -> tuple[jax.Array, jax.Array]:
        """Adds the last layer to all but the last and the first to all but the first."""
        none = jnp.full((1, self.width), fill, upper.dtype)
        return jnp.concatenate([upper, none]), jnp.concatenate([none, lower])


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
    if layers is None or layers.num_arcs > _MAX_PADDING * layout.num_arcs:
        return layout
    return layers


def layers_of(layout: Layout) -> Layers | None:
    """Arranges rows in layers; None where an inner edge does not lead to the next layer."""
    is_inner = layout.channel < layout.num_arcs
    tail, head = layout.row[layout.tail], layout.row[layout.head]
    if not is_inner.any() or layout.label.max() >= UNREACHABLE:
        return None
    if (layout.label[tail[is_inner]] != layout.label[head[is_inner]] + 1).any():
        return None

    layer, num_layers = layout.depth - layout.label, layout.depth
    counts = np.bincount(layer, minlength=num_layers)
    width = -(-int(counts.max()) // 8) * 8 if counts.max() > 8 else int(counts.max())
    order = np.argsort(layer, kind="stable")
    place = np.empty_like(layer)
    place[order] = np.arange(order.size) - np.repeat(np.cumsum(counts) - counts, counts)
    num_rows = num_layers * width
    renumbered = np.append(layer * width + place, [num_rows, num_rows + 1]).astype(np.int32)

    # The arc between two rows, and those with the ends; the two auxiliary channels stay last.
    num_arcs = 2 * (num_layers - 1) * width**2
    channel = layout.channel - layout.num_arcs - 2 * layout.num_rows + num_arcs + 2 * num_rows
    outer = (layout.channel - layout.num_arcs) // layout.num_rows
    from_source, into_sink = ~is_inner & (outer == 0), ~is_inner & (outer == 1)
    upper, lower = renumbered[tail], renumbered[head]
    channel[is_inner] = (upper * width + lower % width)[is_inner]
    channel[from_source] = (num_arcs + lower)[from_source]
    channel[into_sink] = (num_arcs + num_rows + upper)[into_sink]
    label = np.full(num_rows, UNREACHABLE, np.int32)
    label[renumbered[:-2]] = layout.label
    return Layers(
        num_layers=num_layers,
        width=width,
        channel=channel.astype(np.int32),
        label=label,
        depth=layout.depth,
        row=renumbered[layout.row],
        tail=layout.tail,
        head=layout.head,
        is_direct=layout.is_direct,
    )
