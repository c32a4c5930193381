r"""A first-order method for the minimum cut that goes on from the answer to an earlier problem.

The cut is the saddle point of $\sum_{uv} c_{uv} y_{uv} (p_u - p_v)$, where $0 \le y \le 1$ are the
shares of their capacities that edges carry and $0 \le p \le 1$ the potentials, 1 at the source and
0 at the sink. Any $y$ bounds the maximum flow from below and any threshold of $p$ from above. When
capacities drift a little, a few projected steps from the last $p, y$ close the gap.

A gap of $\delta$ also says where the minimum cut can be. A cut that costs no more than the upper
bound crosses no arc whose residual is more than $\delta$, has every node with more excess than that
on its source side and every one that lacks more on its sink side. What is reached from there along
such arcs belongs there too; if that leaves no choice, the minimum cut is unique and found exactly.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.flow.certificate import default_rtol
from pfn_optax.flow.channels import merge, outer_channels, split
from pfn_optax.flow.layout import Form, Residuals
from pfn_optax.flow.min_cut import TIE_ULPS, reach, row_cut_edges
from pfn_optax.flow.network import FlowNetwork
from pfn_optax.flow.reduce import reduction_of

_STEPS_PER_CHECK = 8
_MAX_CHECKS = 16
_THRESHOLDS = np.linspace(0.1, 0.9, 8)


class WarmStart(NamedTuple):
    """Where the first-order method starts, for the core that the reduction leaves.

    Attributes:
        potential: f[num_core_nodes], 1 on the source side of the last cut, or on the way there.
        share: f[num_core_edges], the share of its capacity that an edge carries.
    """

    potential: jax.Array
    share: jax.Array

    @classmethod
    def zeros(cls, network: FlowNetwork, dtype: jax.typing.DTypeLike = np.float32) -> WarmStart:
        """The start before any problem has been solved.

        Args:
            network: The network.
            dtype: That of the capacities.

        Returns:
            Zeros.

        Example:
            >>> network = FlowNetwork.from_edges([(0, 1), (1, 2)], source=0, sink=2)
            >>> WarmStart.zeros(network).share.shape  # a chain reduces to one edge
            (1,)
        """
        core = reduction_of(network).core
        return cls(jnp.zeros(core.num_nodes, dtype), jnp.zeros(core.num_edges, dtype))


class Proposal(NamedTuple):
    """What the steps have led to."""

    rows: jax.Array  # bool[2, num_rows], source sides that hold the minimum cut between them
    flow: jax.Array  # f[num_edges], in the unit of the capacities
    is_unique: jax.Array  # bool[], whether the two are proven to be the same, and minimal


class _Point(NamedTuple):
    potential: jax.Array  # f[num_rows]
    ahead: jax.Array  # f[num_rows], potential extrapolated
    shares: Residuals
    from_source: jax.Array  # f[num_rows], shares of the outer channels
    into_sink: jax.Array


def propose(form: Form, capacities: jax.Array, start: WarmStart) -> Proposal:
    """Takes steps until the two bounds meet, or gives up.

    Args:
        form: The form of the network.
        capacities: f[num_edges], finite, of the order of 1, none straight from source to sink.
        start: Where to start.

    Returns:
        The proposal; where the bounds did not meet or the cut is not unique, it says so.

    Reference:
        Chambolle and Pock, A first-order primal-dual algorithm for convex problems, 2011; the
        steps are those of Pock and Chambolle, Diagonal preconditioning, 2011.
    """
    channels = merge(form, capacities)
    source_capacity, sink_capacity = outer_channels(form, channels)
    out_capacity, back_capacity = form.both(form.residuals(channels))
    inner = form.sum(tuple(map(jnp.add, out_capacity, back_capacity)))
    degree = inner + source_capacity + sink_capacity
    step_size = jnp.where(degree > 0, 1 / jnp.where(degree > 0, degree, 1), 0)

    def net_out(point: _Point) -> jax.Array:
        out, back = form.both(point.shares)
        return (
            form.sum(tuple(map(_net, out_capacity, out, back_capacity, back)))
            + sink_capacity * point.into_sink
            - source_capacity * point.from_source
        )

    def step(_: int, point: _Point) -> _Point:
        drops = tuple(map(jnp.subtract, form.own(point.ahead), form.heads(point.ahead)))
        out, back = form.both(point.shares)
        out = tuple(_unit_interval(y + drop / 2) for y, drop in zip(out, drops, strict=True))
        back = tuple(_unit_interval(y - drop / 2) for y, drop in zip(back, drops, strict=True))
        point = point._replace(
            shares=form.stored(out, back),
            from_source=_unit_interval(point.from_source + (1 - point.ahead) / 2),
            into_sink=_unit_interval(point.into_sink + point.ahead / 2),
        )
        potential = _unit_interval(point.potential - step_size * net_out(point))
        return point._replace(potential=potential, ahead=2 * potential - point.potential)

    def bounds(point: _Point) -> tuple[jax.Array, jax.Array]:
        sent = (source_capacity * point.from_source).sum()
        lower = sent + jnp.minimum(net_out(point), 0).sum()
        upper = jax.vmap(lambda threshold: cut_capacity(point.potential > threshold))
        return lower, upper(_THRESHOLDS.astype(capacities.dtype)).min()

    def cut_capacity(side: jax.Array) -> jax.Array:
        crosses = map(jnp.logical_and, form.own(side), (~other for other in form.heads(side)))
        inner = form.sum(
            tuple(jnp.where(a, c, 0) for a, c in zip(crosses, out_capacity, strict=True))
        )
        return (inner + jnp.where(side, sink_capacity, source_capacity)).sum()

    def is_apart(state: tuple[jax.Array, _Point, jax.Array, jax.Array]) -> jax.Array:
        checks, _, lower, upper = state
        return (upper - lower > rtol * upper) & (checks < _MAX_CHECKS)

    def advance(state):
        checks, point, *_ = state
        point = jax.lax.fori_loop(0, _STEPS_PER_CHECK, step, point)
        return checks + 1, point, *bounds(point)

    # Half of what certifies, so that other orders of summation do not undo it.
    rtol = default_rtol(capacities.dtype) / 2
    point = _start(form, capacities, channels, start)
    state = (jnp.zeros((), jnp.int32), point, *bounds(point))
    _, point, lower, upper = jax.lax.while_loop(is_apart, advance, state)

    noise = TIE_ULPS * jnp.finfo(capacities.dtype).eps
    gap = upper - lower + noise * upper
    out, back = form.both(point.shares)
    residual = tuple(map(_residual, out_capacity, out, back_capacity, back))
    opposite = tuple(map(_residual, back_capacity, back, out_capacity, out))
    net = net_out(point)
    near = (source_capacity * (1 - point.from_source) > gap) | (-net > gap)
    far = (sink_capacity * (1 - point.into_sink) > gap) | (net > gap)
    open_back, is_open = tuple(a > gap for a in opposite), tuple(a > gap for a in residual)
    reached, reaching = reach(form, [near, far], [open_back, is_open])
    rows = jnp.stack([reached, ~reaching])
    cuts = row_cut_edges(form, rows)
    return Proposal(
        rows=rows,
        flow=_edge_flow(form, capacities, channels, point),
        is_unique=(cuts[0] == cuts[1]).all() & ~(reached & reaching).any(),
    )


def _start(form: Form, capacities: jax.Array, channels: jax.Array, start: WarmStart) -> _Point:
    used = merge(form, capacities * start.share)
    share = _unit_interval(jnp.where(channels > 0, used / jnp.where(channels > 0, channels, 1), 0))
    potential = jnp.zeros(form.num_rows + 2, channels.dtype).at[form.row].set(start.potential)
    potential = potential[: form.num_rows]
    outer = outer_channels(form, share)
    return _Point(potential, potential, form.residuals(share), *outer)


def _edge_flow(form: Form, capacities: jax.Array, channels: jax.Array, point: _Point) -> jax.Array:
    shares = [point.from_source, point.into_sink]
    if form.num_arcs:
        shares = [*form.pairs(point.shares), *shares]
    share = jnp.concatenate(shares)
    return split(form, capacities, channels, channels[: share.size] * share)


def _net(
    out_capacity: jax.Array, out: jax.Array, back_capacity: jax.Array, back: jax.Array
) -> jax.Array:
    return out_capacity * out - back_capacity * back


def _residual(
    capacity: jax.Array, share: jax.Array, opposite_capacity: jax.Array, opposite: jax.Array
) -> jax.Array:
    return capacity * (1 - share) + opposite_capacity * opposite


def _unit_interval(value: jax.Array) -> jax.Array:
    return jnp.clip(value, 0, 1)
