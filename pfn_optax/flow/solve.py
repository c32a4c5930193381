"""From capacities to both extreme cuts and a flow, by push-relabel in either form.

Works on capacities in a unit of its own (see `rescale`) and on channels, the merged edges.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.flow.certificate import certify_rounded
from pfn_optax.flow.channels import merge, outer_channels, split
from pfn_optax.flow.first_order import WarmStart, propose
from pfn_optax.flow.layers import form_of
from pfn_optax.flow.layout import Form
from pfn_optax.flow.min_cut import ExtremeCuts, extreme_cuts, reach, row_cut_edges, with_ends
from pfn_optax.flow.network import FlowNetwork
from pfn_optax.flow.push_relabel import Preflow, drain

_MAX_ATTEMPTS = 3


class Solution(NamedTuple):
    """The two extreme minimum cuts and a flow that proves them minimal."""

    sides: jax.Array  # bool[2, num_nodes], source sides, nearest the source and nearest the sink
    flow: jax.Array  # f[num_edges]; excess is left at nodes unless its return was asked for
    rounds: jax.Array  # i32[], rounds of push-relabel
    is_finite: jax.Array  # bool[]; if not, there is no finite cut and the rest means nothing


def upper_bound(layout: Form, capacities: jax.Array) -> jax.Array:
    """Bounds the maximum flow by the cheapest cut between two levels of distance to the sink.

    No edge skips a level on its way down, so what leaves level l + 1 downwards, and what the
    source sends to level l or lower, is a cut. Where every level has an infinite edge, the rows
    that the source reaches along infinite edges are a finite cut, if there is any.
    """
    channels = merge(layout, capacities)
    from_source, into_sink = outer_channels(layout, channels)
    down, label = into_sink, jnp.asarray(layout.label)
    out, _ = layout.both(layout.residuals(channels))
    labels = zip(layout.own(label), layout.heads(label), strict=True)
    descends = [own == head + 1 for own, head in labels]
    down = down + layout.sum(
        tuple(jnp.where(mask, a, 0) for mask, a in zip(descends, out, strict=True))
    )
    level = jnp.minimum(label, layout.depth + 2)
    levels = jnp.zeros((2, layout.depth + 3), channels.dtype)
    levels = levels.at[0, level].add(down).at[1, level].add(from_source)
    bound = (levels[0, 1:-1] + jnp.cumsum(levels[1, :-2])).min()

    is_infinite = jnp.isinf(channels)
    start = outer_channels(layout, is_infinite)[0] & jnp.isinf(bound)
    _, back = layout.both(layout.residuals(is_infinite))
    (infinite_side,) = reach(layout, [start], [back])
    finite = jnp.where(row_cut_edges(layout, infinite_side), capacities, 0).sum()
    return jnp.minimum(bound, finite)


def rescale(capacities: jax.Array, bound: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Measures capacities in a power of two near the bound and clips them at twice the bound.

    The power of two makes the change of unit exact. What is above the bound is in no minimum
    cut; clipped, neither infinite nor huge capacities drown the others in rounding.

    Returns:
        The capacities, f[num_edges], and the unit, f[].
    """
    info = jnp.finfo(capacities.dtype)
    bound = jnp.where(bound > 0, bound, 1)
    exponent = jnp.clip(jnp.frexp(bound)[1], info.minexp, -info.minexp)
    one = jnp.ones((), capacities.dtype)
    per_unit, unit = jnp.ldexp(one, -exponent), jnp.ldexp(one, exponent)
    return jnp.minimum(capacities * per_unit, 2 * (bound * per_unit)), unit


class _Attempt(NamedTuple):
    number: jax.Array
    bound: jax.Array
    solution: Solution
    certified: jax.Array


def solve(
    network: FlowNetwork,
    capacities: jax.Array,
    *,
    return_flow: bool,
    max_rounds: int | None = None,
    form: Form | None = None,
    warm: WarmStart | None = None,
) -> Solution:
    """Finds both extreme minimum cuts and a flow that proves them minimal.

    Args:
        network: The network.
        capacities: f[num_edges], non-negative and normal, infinite ones allowed.
        return_flow: Whether flow that cannot reach the sink must be sent back.
        max_rounds: Where to give up; by default 8 times the largest distance to the sink + 256.
        form: How to arrange the network; by default the faster way.
        warm: Where first-order steps start, which are tried before push-relabel where given.

    Returns:
        The solution; wrong if the rounds did not suffice, which a certificate will show.
    """
    layout = form_of(network) if form is None else form
    # Edges straight from source to sink are in every cut: they only add to the value.
    direct = jnp.where(layout.is_direct, capacities, 0)
    if not layout.num_rows:
        is_finite = jnp.isfinite(direct.sum())
        sides = jnp.broadcast_to(np.arange(2) == network.source, (2, 2))
        no_rounds = jnp.zeros((), jnp.int32)
        return Solution(sides, jnp.where(is_finite, direct, 0), no_rounds, is_finite)

    if max_rounds is None:
        max_rounds = 8 * layout.depth + 256
    problem = jnp.where(layout.is_direct, 0, capacities)
    bound = upper_bound(layout, problem)
    is_finite = jnp.isfinite(bound + direct.sum())
    direct, problem, bound = (jnp.where(is_finite, a, 0) for a in (direct, problem, bound))

    # Rounding is relative to the bound. Where capacities span many decades the bound can be so
    # far above the maximum flow that the flow proves nothing; the cut found is then the bound of
    # a second attempt, and as a rule the first is the last.
    def is_unfinished(attempt: _Attempt) -> jax.Array:
        is_left = (attempt.number < _MAX_ATTEMPTS) & (attempt.solution.rounds < max_rounds)
        return ~attempt.certified & is_left

    def try_again(attempt: _Attempt) -> _Attempt:
        so_far = attempt.solution.rounds
        cuts, flow, rounds = _solve_once(
            layout,
            problem,
            attempt.bound,
            return_flow=return_flow,
            max_rounds=max_rounds - so_far,
        )
        minimum = cuts.capacity.min()
        # Where nothing can flow the zero flow proves it, free of rounding.
        flow = jnp.where(minimum > 0, flow, 0) + direct
        sides = with_ends(layout, cuts.rows)
        certified = certify_rounded(
            network, problem + direct, flow, sides, num_steps=rounds, is_conserved=return_flow
        )
        return _Attempt(
            number=attempt.number + 1,
            bound=jnp.minimum(attempt.bound, minimum),
            solution=Solution(sides, flow, so_far + rounds, is_finite),
            certified=certified.all() | ~is_finite,
        )

    zero = jnp.zeros((), jnp.int32)
    nothing = Solution(
        jnp.zeros((2, network.num_nodes), bool), jnp.zeros_like(capacities), zero, is_finite
    )
    start = _Attempt(zero, bound, nothing, jnp.zeros((), bool))
    if warm is not None:
        scaled, unit = rescale(problem, bound)
        proposal = propose(layout, scaled, warm)
        sides = with_ends(layout, proposal.rows)
        cut = row_cut_edges(layout, proposal.rows[0])
        can_flow = jnp.where(cut, problem, 0).sum() > 0
        flow = jnp.where(can_flow, proposal.flow * unit, 0) + direct
        certified = certify_rounded(
            network, problem + direct, flow, sides, num_steps=zero, is_conserved=return_flow
        )
        # Not accepted, it leaves no trace: the loop below starts as from nothing.
        start = start._replace(
            solution=Solution(sides, flow, zero, is_finite),
            certified=certified.all() & proposal.is_unique,
        )
    return jax.lax.while_loop(is_unfinished, try_again, start).solution


def _solve_once(
    layout: Form,
    capacities: jax.Array,
    bound: jax.Array,
    *,
    return_flow: bool,
    max_rounds: int | jax.Array,
) -> tuple[ExtremeCuts, jax.Array, jax.Array]:
    """Finds a maximum preflow, or flow, and both extreme minimum cuts.

    Args:
        layout: The network's layout.
        capacities: f[num_edges], none straight from source to sink.
        bound: f[], finite, no less than the maximum flow; the nearer the more accurate.
        return_flow: Whether to send back what could not reach the sink.
        max_rounds: Where to give up, in either phase.

    Returns:
        The cuts, the flow f[num_edges], and the rounds of the first phase.
    """
    scaled, unit = rescale(capacities, bound)
    channels = merge(layout, scaled)
    from_source, into_sink = outer_channels(layout, channels)
    residuals = layout.residuals(channels)
    # No row can use more than it can send on. A little more than that, or rounding could leave
    # a row with no excess and an open arc from the source.
    sendable = into_sink + layout.sum(layout.both(residuals)[0])
    injected = jnp.minimum(from_source, 1.01 * sendable + jnp.finfo(channels.dtype).tiny)
    start = Preflow(jnp.asarray(layout.label), injected, into_sink, residuals)
    preflow, rounds = drain(layout, start, max_rounds)
    cuts = extreme_cuts(layout, capacities, start, preflow, from_source - injected)
    sent, arrived = injected, into_sink - preflow.target
    if return_flow:
        # Second phase: the same rounds with the source as their target.
        returning = preflow._replace(label=jnp.ones_like(preflow.label), target=injected)
        preflow, _ = drain(layout, returning, max_rounds)
        sent = preflow.target
    net = _arc_flow(layout, channels, preflow)
    flow = split(layout, scaled, channels, jnp.concatenate([net, sent, arrived])) * unit
    return cuts, flow, rounds


def _arc_flow(layout: Form, channels: jax.Array, preflow: Preflow) -> jax.Array:
    """Net flow along each arc, f[num_arcs]; of the two arcs of a pair one at most carries any."""
    if not layout.num_arcs:
        return jnp.zeros(0, channels.dtype)
    out, back = layout.pairs(preflow.residuals)
    forth, opposite = jnp.split(channels[: layout.num_arcs], 2)
    # The same number twice; the smaller capacity has kept more of its digits.
    net = jnp.where(opposite <= forth, back - opposite, forth - out)
    return jnp.concatenate([jnp.maximum(net, 0), jnp.maximum(-net, 0)])
