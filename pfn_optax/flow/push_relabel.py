"""Synchronous push-relabel (Goldberg and Tarjan): every row pushes and relabels in every round."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pfn_optax.flow.layout import UNREACHABLE, Form, Residuals


class Preflow(NamedTuple):
    """What a round changes."""

    label: jax.Array  # i32[num_rows], lower bound of the residual distance to the target
    excess: jax.Array  # f[num_rows], what came in and has not gone out
    target: jax.Array  # f[num_rows], residual of the arc straight to the target
    residuals: Residuals


def drain(layout: Form, preflow: Preflow, max_rounds: int | jax.Array) -> tuple[Preflow, jax.Array]:
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


def _round(layout: Form, preflow: Preflow) -> Preflow:
    label, excess, target, residuals = preflow
    out, back = layout.both(residuals)
    labels, head_labels = layout.own(label), layout.heads(label)

    # Straight to the target first: a row whose arc to it is open has label 1, hence no other
    # admissible arc.
    arrived = jnp.minimum(excess, target)
    target, excess = target - arrived, excess - arrived

    # Push along all admissible arcs at once, in proportion to their residuals. Compared with
    # filling one arc after the other this needs no prefix sum and takes fewer rounds.
    total = layout.sum(tuple(map(_admissible, out, labels, head_labels)))
    saturates = excess >= total
    share = jnp.where(saturates, 1, excess / jnp.where(saturates, 1, total))
    excess = jnp.where(saturates, excess - total, 0)
    sent = tuple(map(_pushed, out, labels, head_labels, layout.own(share)))
    got = tuple(map(_pushed, back, head_labels, labels, layout.heads(share)))
    # Of what is sent and what is got through a slot one at least is zero.
    out = tuple(a - b + c for a, b, c in zip(out, sent, got, strict=True))
    back = tuple(a + b - c for a, b, c in zip(back, sent, got, strict=True))
    excess = excess + layout.sum(got)

    # Relabel every row, active or not: labels then close in on the true distances.
    lowest = layout.min(
        tuple(jnp.where(a > 0, b, UNREACHABLE) for a, b in zip(out, head_labels, strict=True))
    )
    label = jnp.maximum(label, jnp.where(target > 0, 0, lowest) + 1)
    return Preflow(_apply_gap_rule(label), excess, target, layout.stored(out, back))


def _admissible(residual: jax.Array, from_label: jax.Array, to_label: jax.Array) -> jax.Array:
    return jnp.where(from_label == to_label + 1, residual, 0)


def _pushed(
    residual: jax.Array, from_label: jax.Array, to_label: jax.Array, share: jax.Array
) -> jax.Array:
    # The minimum changes nothing but keeps the compiler from contracting product and
    # difference, which would round the two copies of a residual differently.
    return jnp.minimum(_admissible(residual, from_label, to_label) * share, residual)


def _apply_gap_rule(label: jax.Array) -> jax.Array:
    """Labels drop by at most one along a residual arc: none can cross an unused label."""
    num_rows = label.shape[0]
    used = jnp.zeros(num_rows + 2, bool).at[jnp.minimum(label, num_rows + 1)].set(True)
    gap = 1 + jnp.argmin(used[1:]).astype(label.dtype)
    return jnp.where(label > gap, UNREACHABLE, label)
