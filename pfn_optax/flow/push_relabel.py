"""Synchronous push-relabel (Goldberg and Tarjan): every row pushes and relabels in every round."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.flow.layout import UNREACHABLE, Layout

PerRow = TypeVar("PerRow", jax.Array, np.ndarray)


class Preflow(NamedTuple):
    """What a round changes. `out` and `back` hold each arc's residual once at either end.

    Both copies go through the same arithmetic, so they stay equal, and a row can see what its
    neighbours push to it without fetching it from them.
    """

    label: jax.Array  # i32[num_rows], lower bound of the residual distance to the target
    excess: jax.Array  # f[num_rows], what came in and has not gone out
    target: jax.Array  # f[num_rows], residual of the arc straight to the target
    out: tuple[jax.Array, ...]  # f[width, rows] per bucket, residual of the arc that leaves
    back: tuple[jax.Array, ...]  # the same for its antiparallel arc


def drain(
    layout: Layout, preflow: Preflow, max_rounds: int | jax.Array
) -> tuple[Preflow, jax.Array]:
    """Pushes excess to the target until none can reach it any more.

    Residuals are compared with zero exactly, here and nowhere else: a saturating push leaves an
    exact zero, and any tolerance inside the loop gave wrong cuts.

    Args:
        layout: The network's layout.
        preflow: Where to start; `label` must be a valid labelling.
        max_rounds: Where to give up.

    Returns:
        The preflow reached and the number of rounds, i32[]. Excess left at a row whose label is
        not `UNREACHABLE` means that the rounds did not suffice.
    """
    if not layout.num_rows:
        return preflow, jnp.zeros((), jnp.int32)

    def is_unfinished(state):
        preflow, rounds = state
        is_active = (preflow.excess > 0) & (preflow.label < UNREACHABLE)
        return jnp.any(is_active) & (rounds < max_rounds)

    def step(state):
        preflow, rounds = state
        return _round(layout, preflow), rounds + 1

    return jax.lax.while_loop(is_unfinished, step, (preflow, jnp.zeros((), jnp.int32)))


def _round(layout: Layout, preflow: Preflow) -> Preflow:
    label, excess, target, out, back = preflow
    labels = split_rows(layout, label)
    head_labels = [label[bucket.head] for bucket in layout.buckets]

    # Straight to the target first: a row whose arc to it is open has label 1, hence no other
    # admissible arc.
    arrived = jnp.minimum(excess, target)
    target, excess = target - arrived, excess - arrived

    # Push along all admissible arcs at once, in proportion to their residuals. Compared with
    # filling one arc after the other this needs no prefix sum and takes fewer rounds.
    admissible = [
        jnp.where(own == head + 1, residual, 0)
        for own, head, residual in zip(labels, head_labels, out, strict=True)
    ]
    total = join_rows([residual.sum(0) for residual in admissible])
    saturates = excess >= total
    share = jnp.where(saturates, 1, excess / jnp.where(saturates, 1, total))
    excess = jnp.where(saturates, excess - total, 0)

    new_out, new_back, received, lowest = [], [], [], []
    for i, (bucket, own_share) in enumerate(
        zip(layout.buckets, split_rows(layout, share), strict=True)
    ):
        # The minimum changes nothing but keeps the compiler from contracting product and
        # difference, which would round the two copies of a residual differently.
        sent = jnp.minimum(admissible[i] * own_share, out[i])
        got = jnp.minimum(back[i] * share[bucket.head], back[i])
        got = jnp.where(head_labels[i] == labels[i] + 1, got, 0)
        new_out.append(out[i] - sent + got)
        new_back.append(back[i] + sent - got)
        received.append(got.sum(0))
        lowest.append(jnp.where(new_out[i] > 0, head_labels[i], UNREACHABLE).min(0))
    excess = excess + join_rows(received)

    # Relabel every row, active or not: labels then close in on the true distances.
    label = jnp.maximum(label, jnp.where(target > 0, 0, join_rows(lowest)) + 1)
    return Preflow(_apply_gap_rule(label), excess, target, tuple(new_out), tuple(new_back))


def _apply_gap_rule(label: jax.Array) -> jax.Array:
    """Labels drop by at most one along a residual arc: none can cross an unused label."""
    num_rows = label.shape[0]
    used = jnp.zeros(num_rows + 2, bool).at[jnp.minimum(label, num_rows + 1)].set(True)
    gap = 1 + jnp.argmin(used[1:]).astype(label.dtype)
    return jnp.where(label > gap, UNREACHABLE, label)


def split_rows(layout: Layout, per_row: PerRow) -> list[PerRow]:
    """Cuts a vector over rows into its buckets, each with an axis for the slots: f[1, rows]."""
    parts, start = [], 0
    for bucket in layout.buckets:
        stop = start + bucket.head.shape[1]
        parts.append(per_row[None, start:stop])
        start = stop
    return parts


def join_rows(parts: list[jax.Array]) -> jax.Array:
    """Joins what has been reduced over the slots of each bucket, f[rows], into f[num_rows]."""
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)
