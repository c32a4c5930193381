"""The scale symmetry of ReLU in place of multipliers: the function stays, the gradients change.

A layer whose weights are scaled by s, with the layers that read it scaled by 1/s, has gradients
larger by 1/s, so that its relative steps are 1/s^2 as long. Where `pfn` would multiply a block by
G, s = G^(-1/2) gives the same relative step, paid for by the layers around.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.errors import UsageError
from pfn_optax.partition import Layer, Partition
from pfn_optax.units import UnitSpec

# Powers of a gradient's size in what optimizers keep.
_DEGREES = {"trace": 1, "mu": 1, "nu": 2}


def targets(layout: Partition, spec: UnitSpec, multipliers: np.ndarray) -> dict[str, np.ndarray]:
    """How far the units should be scaled from where they began.

    Args:
        layout: Blocks of output units.
        spec: Groups of hidden units.
        multipliers: `f32[num_blocks]`, of `pfn`.

    Returns:
        Factors of the groups, `f32[size]`: G^(-1/2) of the block that makes a unit; for a layer
        that makes none (the head), the inverse on the units that it reads.
    """
    found = {group.name: np.ones(group.size, np.float32) for group in spec.groups}
    for layer in layout.layers:
        if not isinstance(layer, Layer):
            raise UsageError("rebalancing needs blocks of output units, not sub-matrices")
        own = multipliers[layer.blocks]
        made = [
            group
            for group in spec.groups
            for member in group.members
            if (member.path, member.axis) == (layer.path, layer.unit_axis)
        ]
        if made:
            for group in made:
                found[group.name] /= np.sqrt(own[layer.block_of_unit])
            continue
        read = [g for g in spec.groups for member in g.members if member.path == layer.path]
        for group in read:
            found[group.name] *= np.sqrt(own.mean())
    scalable = {group.name for group in spec.groups if group.is_scalable}
    return {name: values for name, values in found.items() if name in scalable}


def rescaled(
    spec: UnitSpec, params: Any, opt_state: Any, scales: dict[str, np.ndarray]
) -> tuple[Any, Any]:
    """Rescale units, and what the optimizer keeps of their gradients.

    Args:
        spec: Groups of hidden units.
        params: Parameters of one run.
        opt_state: State of its optimizer.
        scales: Factors of groups, `f32[size]`.

    Returns:
        Parameters of the same function, and the state.
    """
    factors = spec.rescale(jax.tree.map(jnp.ones_like, params), scales)
    params = jax.tree.map(jnp.multiply, params, factors)
    for name, degree in _DEGREES.items():
        kept = optax.tree.get(opt_state, name)
        if kept is not None:
            kept = jax.tree.map(lambda leaf, f, d=degree: leaf * f**-d, kept, factors)
            opt_state = optax.tree.set(opt_state, **{name: kept})
    return params, opt_state
