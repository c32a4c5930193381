r"""Both extreme minimum cuts, read off one maximum preflow.

For any cut $A$ (source in, sink out) of a maximum preflow

$$c(A) = e(t) + \sum_{v \notin A,\, v \ne t} e(v) + \text{residual out of } A,$$

so the minimum cuts are exactly those $A$ that hold every row with excess and that no residual arc
leaves. The smallest is what can be reached from the source and the rows with excess; the largest
is what cannot reach the sink. Neither a second phase nor a reversed solve is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.flow.layout import UNREACHABLE, Form, Slots
from pfn_optax.flow.push_relabel import Preflow

TIE_ULPS = 32  # capacities this many units of rounding apart count as equal


class ExtremeCuts(NamedTuple):
    """The minimum cuts nearest the source and nearest the sink, in this order."""

    rows: jax.Array  # bool[2, num_rows], source sides, the first within the second
    capacity: jax.Array  # f[2], equal up to rounding


def extreme_cuts(
    layout: Form,
    capacities: jax.Array,
    start: Preflow,
    preflow: Preflow,
    surplus: jax.Array,
) -> ExtremeCuts:
    """Finds both extreme minimum cuts, ties decided up to rounding.

    Cuts whose capacities are equal in exact arithmetic differ by rounding once they have been
    summed in different orders. So residuals and excesses at the level of rounding are taken for
    zero; that answer counts if its capacity is the minimum up to rounding, else the exact one.

    Args:
        layout: The network's layout.
        capacities: f[num_edges], in any unit.
        start: The preflow before any push: capacities, and what the source sent.
        preflow: A maximum preflow.
        surplus: f[num_rows], residual of the arc from the source.

    Returns:
        The cuts.
    """
    out, back = layout.both(preflow.residuals)
    both = tuple(a + b for a, b in zip(out, back, strict=True))
    noise = TIE_ULPS * jnp.finfo(preflow.excess.dtype).eps
    # What has come in at a row: its excess is known up to rounding of this.
    before, _ = layout.both(start.residuals)
    gains = tuple(jnp.maximum(a - b, 0) for a, b in zip(out, before, strict=True))
    received = start.excess + layout.sum(gains)

    # Four sets at once: reached from the source, reaching the sink, either with both tolerances.
    starts, opens = [], []
    for tolerance in (noise, 0):
        starts.append((preflow.excess > tolerance * received) | (surplus > 0))
        starts.append(preflow.target > tolerance * start.target)
        for residual in (back, out):
            opens.append(
                tuple(a > tolerance * total for a, total in zip(residual, both, strict=True))
            )
    tied_smallest, tied_rest, smallest, rest = reach(layout, starts, opens)

    # The solver's own cut sets the standard: it needs no tolerance.
    own = preflow.label >= UNREACHABLE
    candidates = jnp.stack([tied_smallest, ~tied_rest, smallest, ~rest, own])
    cuts = row_cut_edges(layout, candidates)
    capacity = jnp.where(cuts, capacities, 0).sum(-1)
    is_minimal = capacity[:2] <= capacity[4] * (1 + noise)
    choice = jnp.where(is_minimal, np.arange(2), np.arange(2, 4))
    return ExtremeCuts(candidates[choice], capacity[choice])


def with_ends(layout: Form, rows: jax.Array) -> jax.Array:
    """Source sides as sets of nodes, bool[..., num_nodes], from bool[..., num_rows]."""
    ends = np.broadcast_to([True, False], (*rows.shape[:-1], 2))
    return jnp.concatenate([rows, ends], -1)[..., layout.row]


def row_cut_edges(layout: Form, rows: jax.Array) -> jax.Array:
    """Edges, bool[..., num_edges], that leave the source side bool[..., num_rows]."""
    nodes = with_ends(layout, rows)
    return nodes[..., layout.tail] & ~nodes[..., layout.head]


def reach(layout: Form, starts: Sequence[jax.Array], opens: Sequence[Slots]) -> list[jax.Array]:
    """Grows sets of rows along open slots until they are closed.

    The sets are bits of one byte, so that growing eight of them costs no more than one.

    Args:
        layout: The network's layout.
        starts: For each set, bool[num_rows], the rows to start from.
        opens: For each set and slot, whether a row joins when the row at the other end has.

    Returns:
        The closed sets.
    """
    if not layout.num_arcs:
        return list(starts)
    members = _to_bits(starts)
    is_open = [_to_bits(masks) for masks in zip(*opens, strict=True)]

    def grow(state):
        members, _ = state
        joins = tuple(a & b for a, b in zip(layout.heads(members), is_open, strict=True))
        grown = members | layout.bits(joins)
        return grown, jnp.any(grown != members)

    members, _ = jax.lax.while_loop(lambda state: state[1], grow, (members, jnp.any(members > 0)))
    return [(members >> bit) % 2 > 0 for bit in range(len(starts))]


def _to_bits(masks: Sequence[jax.Array]) -> jax.Array:
    bits = jnp.zeros(masks[0].shape, jnp.uint8)
    for bit, mask in enumerate(masks):
        bits |= mask.astype(jnp.uint8) << bit
    return bits
