"""Weak duality: what makes an answer trustworthy whichever way it was found."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.flow.network import FlowNetwork


def certify(
    network: FlowNetwork,
    capacities: jax.Array,
    flow: jax.Array,
    source_side: jax.Array,
    *,
    rtol: float | jax.Array | None = None,
) -> jax.Array:
    r"""Checks that a flow and a cut prove each other optimal.

    Clipped to its capacities, any $f$ whatever is a flow but for the nodes that send on more than
    they receive. Taking those paths away leaves a flow, so for every $f$ and every cut $S$

    $$e_f(t) - \sum_{v \ne s, t} \max(0, -e_f(v)) \;\le\; \max\text{-flow} \;\le\; c(S),$$

    where the left end is replaced by 0 if negative (sending nothing is a flow).

    The answer is certified when the two ends meet up to `rtol`. Nothing but the two candidates
    enters, so the check does not trust the solver. It takes one pass over the edges.

    Args:
        network: The network.
        capacities: f[num_edges], negative ones count as 0.
        flow: f[num_edges], a candidate flow (excess at nodes is allowed).
        source_side: bool[num_nodes], a candidate cut.
        rtol: Largest gap relative to the cut; 1e-5 in float32 and 1e-12 in float64 by default.

    Returns:
        bool[]: False too when the cut is not finite or does not separate the ends.

    Example:
        >>> import jax.numpy as jnp
        >>> network = FlowNetwork.from_edges([(0, 1), (1, 2)], source=0, sink=2)
        >>> capacities, side = jnp.array([3.0, 2.0]), jnp.array([True, True, False])
        >>> bool(certify(network, capacities, jnp.array([2.0, 2.0]), side))
        True
        >>> bool(certify(network, capacities, jnp.array([1.0, 2.0]), side))  # 1 from nowhere
        False

    Reference:
        Ford and Fulkerson, Maximal flow through a network, 1956.
    """
    if rtol is None:
        rtol = default_rtol(capacities.dtype)
    capacities = jnp.maximum(capacities, 0)
    excess = node_excess(network, jnp.clip(flow, 0, capacities))
    deficit = jnp.where(_is_inner(network), jnp.maximum(-excess, 0), 0).sum()
    lower = jnp.maximum(excess[network.sink] - deficit, 0)
    upper = jnp.where(cut_edges(network, source_side), capacities, 0).sum()
    separates = source_side[network.source] & ~source_side[network.sink]
    return separates & jnp.isfinite(upper) & (jnp.abs(upper - lower) <= rtol * upper)


def certify_rounded(
    network: FlowNetwork,
    capacities: jax.Array,
    flow: jax.Array,
    source_sides: jax.Array,
    *,
    num_steps: jax.Array,
    is_conserved: bool,
) -> jax.Array:
    """Certifies each of several cuts by a flow that has been rounded step by step.

    Args:
        network: The network.
        capacities: f[num_edges], non-negative.
        flow: f[num_edges], a candidate flow.
        source_sides: bool[num_cuts, num_nodes], candidate cuts.
        num_steps: How often what flows has been rounded; each allows for 4 units of rounding.
        is_conserved: Whether excess at nodes counts against the flow.

    Returns:
        bool[num_cuts]
    """
    dtype = capacities.dtype
    rtol = jnp.maximum(default_rtol(dtype), 4 * jnp.finfo(dtype).eps * num_steps.astype(dtype))
    check = functools.partial(certify, network, capacities, flow, rtol=rtol)
    certified = jax.vmap(check)(source_sides)
    if not is_conserved:
        return certified
    excess = node_excess(network, flow)
    misplaced = jnp.where(_is_inner(network), jnp.abs(excess), 0).sum() / 2
    return certified & (misplaced <= rtol * excess[network.sink])


def cut_edges(network: FlowNetwork, source_sides: jax.Array) -> jax.Array:
    """Edges, bool[..., num_edges], that leave the source side bool[..., num_nodes]."""
    tails, heads = np.array(network.tails, int), np.array(network.heads, int)
    return source_sides[..., tails] & ~source_sides[..., heads]


def node_excess(network: FlowNetwork, flow: jax.Array) -> jax.Array:
    """What each node receives less what it sends, f[num_nodes]."""
    ends = np.array([network.heads, network.tails], int)
    return jnp.zeros(network.num_nodes, flow.dtype).at[ends].add(jnp.stack([flow, -flow]))


def _is_inner(network: FlowNetwork) -> np.ndarray:
    nodes = np.arange(network.num_nodes)
    return (nodes != network.source) & (nodes != network.sink)


def default_rtol(dtype: jax.typing.DTypeLike) -> float:
    """Relative duality gap that rounding may leave: 1e-5 in float32, 1e-12 in float64."""
    return 1e-5 if jnp.finfo(dtype).bits == 32 else 1e-12
