"""Maximum flow and minimum cut of a network with array capacities."""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from pfn_optax.flow.certificate import certify_rounded, cut_edges
from pfn_optax.flow.first_order import WarmStart
from pfn_optax.flow.min_cut import TIE_ULPS
from pfn_optax.flow.network import FlowNetwork
from pfn_optax.flow.reduce import Reduction, collapse, expand_flow, expand_sides, reduction_of
from pfn_optax.flow.solve import Solution, solve


class MaxFlow(NamedTuple):
    """Answer of `max_flow`.

    Attributes:
        value: f[], the maximum flow = the capacity of the minimum cut.
        cut: bool[num_edges], the edges that run from the source side to the sink side.
        source_side: bool[num_nodes], the source side of the cut; all False where there is no
            cut (capacities with a NaN, or a path of infinite capacity).
        certified: bool[], whether flow and cut prove each other optimal (see `certify`), up to
            1e-5 (1e-12 in float64), or 4 units of rounding for each round and each edge of an
            average path of the flow, if that is more.
        unique: bool[], whether the cuts nearest the source and nearest the sink have the same
            edges: then this is the only minimum cut, and `value` is differentiable.
        rounds: i32[], rounds of push-relabel taken; 0 where the network is series-parallel.
        flow: f[num_edges], a maximum flow, or None where it was not asked for.
        warm: Where the next solve may start, or None where no start was given.
    """

    value: jax.Array
    cut: jax.Array
    source_side: jax.Array
    certified: jax.Array
    unique: jax.Array
    rounds: jax.Array
    flow: jax.Array | None
    warm: WarmStart | None = None


def max_flow(
    network: FlowNetwork,
    capacities: jax.Array,
    *,
    side: Literal["source", "sink"] = "source",
    return_flow: bool = False,
    max_rounds: int | None = None,
    warm: WarmStart | None = None,
) -> MaxFlow:
    r"""Solves $\max_f e_f(t)$ subject to $0 \le f \le c$ and conservation, and its dual, the cut.

    Edges in series and in parallel are merged beforehand. So a series-parallel network (a chain,
    residual blocks, branches) is solved without iteration; push-relabel solves the core that is
    left of any other.

    Works under `jit`, `vmap` and `scan`, with the same result as without. The value's derivative
    with respect to the capacities is the cut's indicator (Danskin); where the minimum cut is not
    unique that is one of the subgradients.

    Negative and subnormal capacities count as 0. A path of infinite capacity makes the value
    infinite and leaves the cut empty; a NaN anywhere makes the value NaN and leaves the answer
    uncertified. Minimum cuts whose capacities agree up to rounding are ties, and ties are broken
    by `side`, never by rounding.

    Args:
        network: The network, static.
        capacities: f32[num_edges] or f64[num_edges]; the answer has the same dtype.
        side: "source" for the minimum cut nearest the source (its source side is what the source
            reaches in the residual graph), "sink" for the one nearest the sink.
        return_flow: Whether to return a flow as well, which takes a second phase. Parallel edges
            share their flow in proportion to their capacities; antiparallel edges carry the net
            flow only.
        max_rounds: Rounds after which to give up, uncertified; by default 8 times the core's
            largest distance to the sink + 256.
        warm: Where to start, for capacities that differ little from those of an earlier solve:
            its `MaxFlow.warm`, or `WarmStart.zeros(network)` at first. First-order steps from there
            are accepted if they prove the minimum cut unique, and 0 rounds are taken; else
            push-relabel finds it. The cut is the same either way.

    Returns:
        The answer, a `MaxFlow`.

    Raises:
        ValueError: If the capacities have another shape or dtype, or an option is unknown.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> network = FlowNetwork.from_edges([(0, 1), (0, 1), (1, 2)], source=0, sink=2)
        >>> answer = max_flow(network, jnp.array([1.0, 0.5, 2.0]))
        >>> float(answer.value), answer.cut.tolist(), bool(answer.certified)
        (1.5, [True, True, False], True)
        >>> jax.grad(lambda c: max_flow(network, c).value)(jnp.array([1.0, 0.5, 2.0])).tolist()
        [1.0, 1.0, 0.0]

    Reference:
        Goldberg and Tarjan, A new approach to the maximum-flow problem, 1988.
    """
    capacities = jnp.asarray(capacities)
    if capacities.shape != (network.num_edges,):
        raise ValueError(
            f"capacities must have one entry per edge, shape ({network.num_edges},), "
            f"got {capacities.shape}; use jax.vmap for a batch"
        )
    if capacities.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(
            f"capacities must be float32 or float64, got {capacities.dtype}; cast them first"
        )
    if side not in ("source", "sink"):
        raise ValueError(f'side must be "source" or "sink", got {side!r}')
    if max_rounds is not None and max_rounds < 1:
        raise ValueError(f"max_rounds must be at least 1, got {max_rounds}")
    if warm is not None and return_flow:
        raise ValueError(
            "a warm start leaves excess at nodes, so it cannot be combined with return_flow=True; "
            "leave out one of the two"
        )
    if warm is not None:
        _check_warm(network, capacities, warm)
    return _max_flow(network, capacities, side, return_flow, max_rounds, warm)


def _check_warm(network: FlowNetwork, capacities: jax.Array, warm: WarmStart) -> None:
    expected = WarmStart.zeros(network, capacities.dtype)
    for name, given, needed in zip(WarmStart._fields, warm, expected, strict=True):
        if (given.shape, given.dtype) != (needed.shape, needed.dtype):
            raise ValueError(
                f"warm.{name} must be {needed.dtype}{list(needed.shape)}, got "
                f"{given.dtype}{list(given.shape)}; start from WarmStart.zeros(network, dtype)"
            )


# Jitted here so that an eager call compiles once per network, not once per call.
@functools.partial(jax.jit, static_argnums=(0, 2, 3, 4))
def _max_flow(
    network: FlowNetwork,
    capacities: jax.Array,
    side: str,
    return_flow: bool,
    max_rounds: int | None,
    warm: WarmStart | None,
) -> MaxFlow:
    # Danskin: the value is differentiated with the optimal cut held fixed. So the search sees
    # constants and the value is a plain sum over the cut, which every mode of autodiff follows
    # by itself: no custom rule is needed.
    constants = jax.lax.stop_gradient(capacities)
    is_valid = ~jnp.isnan(constants).any()
    clean = jnp.where(is_valid & (constants >= jnp.finfo(constants.dtype).tiny), constants, 0)

    reduction = reduction_of(network)
    merged = collapse(reduction, clean)
    core = solve(
        reduction.core,
        merged[reduction.core_edge],
        return_flow=return_flow,
        max_rounds=max_rounds,
        warm=jax.lax.stop_gradient(warm),
    )
    flow = expand_flow(reduction, merged, core.flow)
    sides = _extreme_sides(network, reduction, merged, core.sides)
    source_side = sides[0 if side == "source" else 1]

    has_cut = is_valid & core.is_finite
    cuts = cut_edges(network, sides)
    cut = cut_edges(network, source_side) & has_cut
    value = jnp.where(cut, jnp.where(capacities < 0, 0, capacities), 0).sum()
    value = jnp.where(core.is_finite, value, jnp.inf)

    # Rounds are not all that rounds: sharing does too, at each node that flow goes through.
    minimum = jax.lax.stop_gradient(value)
    path_length = jnp.where(minimum > 0, flow.sum() / jnp.where(minimum > 0, minimum, 1), 0)
    (certified,) = certify_rounded(
        network,
        clean,
        flow,
        source_side[None],
        num_steps=core.rounds.astype(flow.dtype) + jnp.minimum(path_length, network.num_nodes),
        is_conserved=return_flow,
    )
    return MaxFlow(
        value=jnp.where(is_valid, value, jnp.nan),
        cut=cut,
        source_side=source_side & has_cut,
        certified=(certified | ~core.is_finite) & is_valid,
        unique=jnp.all(cuts[0] == cuts[1]) & has_cut,
        rounds=core.rounds,
        flow=flow if return_flow else None,
        warm=None if warm is None else _next_start(merged[reduction.core_edge], core, is_valid),
    )


def _next_start(capacities: jax.Array, core: Solution, is_valid: jax.Array) -> WarmStart:
    """The answer as a start: an exact saddle point, whichever way it was found."""
    carries = core.flow > 0
    share = jnp.where(carries, core.flow / jnp.where(carries, capacities, 1), 0)
    is_known = is_valid & core.is_finite
    return WarmStart(
        jnp.where(is_known, core.sides[0], 0).astype(share.dtype),
        jnp.where(is_known, jnp.clip(share, 0, 1), 0),
    )


def _extreme_sides(
    network: FlowNetwork, reduction: Reduction, merged: jax.Array, core_sides: jax.Array
) -> jax.Array:
    """Source sides nearest the source and nearest the sink, bool[2, num_nodes].

    Ties are decided up to rounding, as in the core (see `extreme_cuts`): what a tolerance finds
    counts if it is minimal, else what none does.
    """
    noise = TIE_ULPS * jnp.finfo(merged.dtype).eps
    sides = expand_sides(reduction, merged, core_sides, jnp.array([noise, 0], merged.dtype))
    cuts = cut_edges(network, sides)
    tied, exact = jnp.where(cuts, merged[: network.num_edges], 0).sum(-1)
    is_minimal = tied <= exact.min() * (1 + noise)
    return jnp.where(is_minimal[:, None], *sides)
