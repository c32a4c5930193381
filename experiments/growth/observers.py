"""How PFN is asked about a padded network, for each capacity."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.capacity import CAPACITIES, Statistics, rank_within
from pfn_optax.partition import Partition

MODES = tuple(CAPACITIES)


def options_of(mode: str) -> dict[str, Any]:
    """Options of `pfn` and `rank_groups` that do not see the padding.

    A layer is one block, so that its padding is no block of its own. Ranks alone have nothing to
    say of a single block: they rank units, the padding left out.

    Args:
        mode: name of a capacity.

    Returns:
        Keyword arguments.
    """
    if mode == "rank":
        return {"block_size": 1, "capacity": rank_in_layer}
    if mode == "global_rank":
        return {"block_size": 1, "capacity": rank_in_network}
    return {"num_blocks": 1, "capacity": mode}


def rank_in_layer(known: Statistics, layout: Partition) -> jax.Array:
    """The capacity "rank" among the active units of each layer, 0 in the padding."""
    return _among_active(known, np.asarray(layout.block_layer))


def rank_in_network(known: Statistics, layout: Partition) -> jax.Array:
    """The capacity "global_rank" among the active units of all layers, 0 in the padding."""
    return _among_active(known, np.zeros_like(layout.block_layer))


def _among_active(known: Statistics, groups: np.ndarray) -> jax.Array:
    # Weights into the padding are exactly zero, those into a unit are not.
    is_active = known.parameter_norms > 0
    lowest = jnp.where(is_active, known.gradient_norms, -1.0)
    sizes = np.bincount(groups)
    num_active = jax.ops.segment_sum(is_active.astype(jnp.float32), groups, len(sizes))[groups]
    sizes = np.maximum(sizes[groups], 2).astype(np.float32)
    # Back from .1 + .9 place / (size - 1) to the place, from which the padding is taken off.
    place = (rank_within(lowest, groups) - 0.1) / 0.9 * (sizes - 1) - (sizes - num_active)
    share = 0.1 + 0.9 * place / jnp.maximum(num_active - 1, 1)
    return jnp.where(is_active, jnp.where(num_active > 1, share, 1.0), 0.0)
