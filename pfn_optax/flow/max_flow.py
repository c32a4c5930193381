"""Maximum flow and minimum cut of a network with array capacities."""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from pfn_optax.flow.certificate import certify, default_rtol, node_excess
from pfn_optax.flow.general import solve, upper_bound
from pfn_optax.flow.layout import layout_of
from pfn_optax.flow.min_cut import cut_edges, with_ends
from pfn_optax.flow.network import FlowNetwork

_MAX_ATTEMPTS = 3


class MaxFlow(NamedTuple):
    """Answer of `max_flow`.

    Attributes:
        value: f[], the maximum flow = the capacity of the minimum cut.
        cut: bool[num_edges], the edges that run from the source side to the sink side.
        source_side: bool[num_nodes], the source side of the cut; all False where there is no
            cut (capacities with a NaN, or a path of infinite capacity).
        certified: bool[], whether flow and cut prove each other optimal (see `certify`).
        unique: bool[], whether the cuts nearest the source and nearest the sink have the same
            edges: then this is the only minimum cut, and `value` is differentiable.
        rounds: i32[], rounds of push-relabel taken.
        flow: f[num_edges], a maximum flow, or None where it was not asked for.
    """

    value: jax.Array
    cut: jax.Array
    source_side: jax.Array
    certified: jax.Array
    unique: jax.Array
    rounds: jax.Array
    flow: jax.Array | None


def max_flow(
    network: FlowNetwork,
    capacities: jax.Array,
    *,
    side: Literal["source", "sink"] = "source",
    return_flow: bool = False,
    max_rounds: int | None = None,
) -> MaxFlow:
    r"""Solves $\max_f e_f(t)$ subject to $0 \le f \le c$ and conservation, and its dual, the cut.

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
        max_rounds: Rounds after which to give up, uncertified; by default 8 times the largest
            distance to the sink + 256.

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
    if max_rounds is None:
        max_rounds = 8 * layout_of(network).depth + 256
    elif max_rounds < 1:
        raise ValueError(f"max_rounds must be at least 1, got {max_rounds}")
    return _max_flow(network, capacities, side, return_flow, max_rounds)


# Jitted here so that an eager call compiles once per network, not once per call.
@functools.partial(jax.jit, static_argnums=(0, 2, 3, 4))
def _max_flow(
    network: FlowNetwork, capacities: jax.Array, side: str, return_flow: bool, max_rounds: int
) -> MaxFlow:
    # Danskin: the value is differentiated with the optimal cut held fixed. So the search sees
    # constants and the value is a plain sum over the cut, which every mode of autodiff follows
    # by itself: no custom rule is needed.
    layout = layout_of(network)
    constants = jax.lax.stop_gradient(capacities)
    is_valid = ~jnp.isnan(constants).any()
    clean = jnp.where(is_valid & (constants >= jnp.finfo(constants.dtype).tiny), constants, 0)
    # Edges straight from source to sink are in every cut: they only add to the value.
    direct = jnp.where(layout.is_direct, clean, 0)
    problem = jnp.where(layout.is_direct, 0, clean)

    bound = upper_bound(layout, problem)
    is_finite = jnp.isfinite(bound + direct.sum())
    has_cut = is_valid & is_finite
    problem = jnp.where(is_finite, problem, 0)
    bound = jnp.where(is_finite, bound, 0)

    # Rounding is relative to the bound. Where capacities span many decades the bound can be so
    # far above the maximum flow that the flow proves nothing; the cut found is then the bound of
    # a second attempt, and as a rule the first is the last.
    eps = jnp.finfo(clean.dtype).eps

    def is_unfinished(attempt: _Attempt) -> jax.Array:
        return ~attempt.certified & (attempt.number < _MAX_ATTEMPTS) & (attempt.rounds < max_rounds)

    def try_again(attempt: _Attempt) -> _Attempt:
        cuts, flow, rounds = solve(
            layout,
            problem,
            attempt.bound,
            return_flow=return_flow,
            max_rounds=max_rounds - attempt.rounds,
        )
        which = 0 if side == "source" else 1
        rows, minimum = cuts.rows[which], cuts.capacity[which]
        # Where nothing can flow the zero flow proves it, free of rounding.
        flow = jnp.where(minimum > 0, flow, 0) + direct
        rtol = jnp.maximum(default_rtol(clean.dtype), 4 * eps * rounds.astype(clean.dtype))
        certified = certify(network, problem + direct, flow, with_ends(layout, rows), rtol=rtol)
        if return_flow:
            excess = jnp.where(layout.row < layout.num_rows, node_excess(network, flow), 0)
            misplaced = jnp.abs(excess).sum() / 2
            certified &= misplaced <= rtol * (minimum + direct.sum())
        return _Attempt(
            number=attempt.number + 1,
            rounds=attempt.rounds + rounds,
            bound=jnp.minimum(attempt.bound, minimum),
            rows=rows,
            flow=flow,
            certified=certified | ~has_cut,
            unique=cuts.is_unique,
        )

    zero, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    nothing = _Attempt(
        zero, zero, bound, jnp.zeros(layout.num_rows, bool), jnp.zeros_like(clean), no, no
    )
    attempt = jax.lax.while_loop(is_unfinished, try_again, nothing)

    cut = cut_edges(layout, attempt.rows) & has_cut
    value = jnp.where(cut, jnp.where(capacities < 0, 0, capacities), 0).sum()
    value = jnp.where(is_finite, value, jnp.inf)
    return MaxFlow(
        value=jnp.where(is_valid, value, jnp.nan),
        cut=cut,
        source_side=with_ends(layout, attempt.rows) & has_cut,
        certified=attempt.certified & is_valid,
        unique=attempt.unique & has_cut,
        rounds=attempt.rounds,
        flow=attempt.flow if return_flow else None,
    )


class _Attempt(NamedTuple):
    number: jax.Array
    rounds: jax.Array
    bound: jax.Array
    rows: jax.Array
    flow: jax.Array
    certified: jax.Array
    unique: jax.Array
