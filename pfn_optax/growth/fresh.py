"""The weights of fresh units."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pfn_optax.growth.arguments import arrays
from pfn_optax.growth.changes import NEW
from pfn_optax.growth.resizing import Resizing
from pfn_optax.paths import Path


def fresh_leaves(
    resizing: Resizing, leaves: Mapping[Path, np.ndarray], init: Any, draw: np.random.Generator
) -> dict[Path, np.ndarray | None]:
    """What fresh units have.

    Args:
        resizing: the change.
        leaves: the parameters and batch statistics.
        init: freshly initialised parameters of the new sizes, or None.
        draw: random numbers.

    Returns:
        For every leaf that changes one of the new shape; None for what their donors have.

    Raises:
        ValueError: if the initialised parameters have other shapes, or all that goes into fresh
            units is zero.
    """
    given = None if init is None else arrays(resizing.places, init, None)
    fresh: dict[Path, np.ndarray | None] = {}
    for path in sorted({m.path for step in resizing.steps for m in step.group.members}):
        leaf = leaves[path]
        shape = dict(resizing.spec.leaves)[path]
        if given is not None and path in given:
            if given[path].shape != shape:
                raise ValueError(
                    f"init has shape {given[path].shape} for {'/'.join(path) or 'params'}, its new "
                    f"shape is {shape}: initialise a model of the new sizes."
                )
            fresh[path] = given[path]
        elif leaf.ndim < 2 or np.all(leaf > 0):
            fresh[path] = None
        else:
            values = leaf.astype(np.float64)
            fresh[path] = draw.normal(0, np.sqrt(np.mean(np.square(values))), shape)
    _require_alive(resizing, leaves, fresh)
    return fresh


def _require_alive(
    resizing: Resizing,
    leaves: Mapping[Path, np.ndarray],
    fresh: Mapping[Path, np.ndarray | None],
) -> None:
    """Refuses fresh units that are zero on both sides: nothing would ever move them."""
    for name in dict.fromkeys(step.group.name for step in resizing.steps):
        produced = {m.path for m in resizing.spec.group(name).members if not m.is_read}
        new = []
        for path in produced:
            values, is_new = fresh[path], resizing.marks(path, leaves[path].shape) == NEW
            new.append(leaves[path] if values is None else values[is_new])
        if not any(np.any(values) for values in new):
            raise ValueError(
                f"all weights that go into group {name!r} are zero, and so would be those of fresh "
                "units: pass init= with weights of the new sizes."
            )
