"""The shapes that trees have at other sizes."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pfn_optax.growth.resizing import Places
from pfn_optax.paths import Path, names_of
from pfn_optax.units import UnitSpec


def shapes_at(spec: UnitSpec, places: Places, params: Any, batch_stats: Any) -> tuple[Any, Any]:
    """Returns what parameters and batch statistics are at the sizes of a spec.

    Args:
        spec: the groups, of any sizes.
        places: where both stand in the tree of the spec.
        params: the parameters, of any sizes; with `optax.lookahead` the pair.
        batch_stats: the batch statistics, or None.

    Returns:
        Trees of `jax.ShapeDtypeStruct`.
    """
    shapes = dict(spec.leaves)

    def at(prefix: Path, tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: _struct(shapes, (*prefix, *names_of(path)), leaf), tree
        )

    if isinstance(params, optax.LookaheadParams):
        new = optax.LookaheadParams(*(at(places.params, tree) for tree in params))
    else:
        new = at(places.params, params)
    return new, at(places.batch_stats, batch_stats)


def _struct(shapes: Mapping[Path, Any], path: Path, leaf: Any) -> jax.ShapeDtypeStruct:
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    return jax.ShapeDtypeStruct(shapes.get(path, np.shape(leaf)), dtype)
