"""The maximum flow of a network's parameters as a number that can be differentiated."""

from typing import Any

import jax

from pfn_optax.capacity import DEFAULT_CAPACITY, CapacityFn, Statistics, capacity_rule, roots
from pfn_optax.flow import max_flow
from pfn_optax.graph import FlowGraph, bound_to, layout_of
from pfn_optax.partition import OutputAxis, block_energies


def flow_value(
    params: Any,
    gradients: Any = None,
    *,
    block_size: int | None = None,
    num_blocks: int | None = None,
    output_axis: OutputAxis | None = None,
    capacity: str | CapacityFn = DEFAULT_CAPACITY,
    graph: FlowGraph | None = None,
) -> jax.Array:
    r"""Computes the maximum flow from the loss to the data, differentiable in the parameters.

    By Danskin's theorem the derivative is that of the minimum cut's capacity with the cut held
    fixed,

    .. math:: \frac{d}{dW} \max f = \sum_{e \in \mathrm{cut}} \frac{dc_e}{dW}

    which is exact where the minimum cut is unique, and else belongs to the one nearest the loss.
    So only blocks in the cut, and those that share a capacity with them, are moved by it.

    Works under `jit`, `grad` and `vmap`. Ranks (`"rank"`, `"global_rank"`) are piecewise constant:
    their derivative is 0. A path of identities alone makes the value infinite and its derivative 0.

    Args:
        params: the parameter tree.
        gradients: a tree like it, for the capacities that read gradients. Taken at this point, not
            averaged; where they are computed from `params`, the derivative goes through them too.
        block_size: see `pfn`.
        num_blocks: see `pfn`.
        output_axis: see `pfn`.
        capacity: see `pfn`.
        graph: see `pfn`.

    Returns:
        f32[], the value of the maximum flow.

    Raises:
        ValueError: if the capacity reads gradients and there are none, the graph names unknown
            layers, or block options stand beside a graph that brings its own blocks.

    Example:
        The second layer is nearly of rank one, so it is the cut, and the first gets no gradient:

        >>> import jax, jax.numpy as jnp
        >>> from pfn_optax import flow_value
        >>> params = {"layer0": jnp.eye(3), "layer1": jnp.diag(jnp.array([2.0, 1.0, 0.0]))}
        >>> value, slope = jax.value_and_grad(flow_value)(params)
        >>> print(f"{value:.2f}", jnp.abs(slope["layer0"]).max())
        1.47 0.0
        >>> print(slope["layer1"].diagonal().round(2))
        [-0.42  0.83  0.  ]

    Reference:
        Danskin 1967, "The Theory of Max-Min and its Application to Weapons Allocation Problems".
    """
    layout = layout_of(
        graph, params, block_size=block_size, num_blocks=num_blocks, output_axis=output_axis
    )
    bound = bound_to(graph, layout)
    rule = capacity_rule(capacity)
    norms = None if gradients is None else roots(block_energies(layout, layout.leaves(gradients)))
    known = Statistics(norms, layout.leaves(params), layout)
    on_edges = bound.edge_capacities(rule.block_capacities(known, layout), rule)
    return max_flow(bound.network, on_edges).value
