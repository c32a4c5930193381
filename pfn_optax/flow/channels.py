"""Edges to channels, the merged edges that the solver works on, and back."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pfn_optax.flow.layout import Form


def merge(layout: Form, per_edge: jax.Array) -> jax.Array:
    """Adds edges up into channels."""
    return jnp.zeros(layout.num_channels, per_edge.dtype).at[layout.channel].add(per_edge)


def outer_channels(layout: Form, channels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Channels from the source and into the sink, f[num_rows] each."""
    start, num_rows = layout.num_arcs, layout.num_rows
    return channels[start : start + num_rows], channels[start + num_rows : start + 2 * num_rows]


def split(
    layout: Form, capacities: jax.Array, channels: jax.Array, channel_flow: jax.Array
) -> jax.Array:
    """Shares the flow of a channel among its edges, f[num_edges], in proportion to capacity."""
    auxiliary = jnp.zeros(2, channels.dtype)
    channel_flow = jnp.concatenate([channel_flow, auxiliary])
    used = jnp.where(channels > 0, channel_flow / jnp.where(channels > 0, channels, 1), 0)
    return capacities * used[layout.channel]
