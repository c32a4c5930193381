"""Which units are split, and how their copies share what is read of them."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from pfn_optax.growth.changes import Fresh, Split
from pfn_optax.landscape.clusters import directions
from pfn_optax.paths import Path
from pfn_optax.units import Group

Units = Sequence[int] | Mapping[str, Sequence[int]] | Literal["outgoing", "gradient"]


def generator(key: Any, number: int) -> np.random.Generator:
    """NumPy's random numbers from a key and the number of the draw."""
    data = np.asarray(jax.random.key_data(key)).ravel()
    return np.random.default_rng([*data.tolist(), number])


def require_key(key: Any, what: str) -> None:
    """Refuses to draw without a key."""
    if key is None:
        raise ValueError(f"{what} at random: pass key=jax.random.key(...).")


def split_of(
    group: Group,
    num_units: int,
    units: Units,
    spread: float,
    leaves: Mapping[Path, np.ndarray],
    gradients: Mapping[Path, np.ndarray] | None,
    draw: np.random.Generator | None,
) -> Split:
    """Chooses units to split.

    Args:
        group: the group.
        num_units: number of units to add.
        units: those to split, or by which of their sizes to choose them.
        spread: by how much the shares of the copies differ, relative to equal ones.
        leaves: the parameters.
        gradients: their gradients, for `units="gradient"`.
        draw: random numbers, if there is a spread.

    Returns:
        The split: the old units stay where they are, the new ones follow.

    Raises:
        ValueError: if the units are none of the group, or not as many as are to be added.
    """
    if isinstance(units, str):
        which = leaves if units == "outgoing" else gradients
        if units not in ("outgoing", "gradient") or which is None:
            raise ValueError(
                'units must be "outgoing", "gradient" (with gradients=) or the units themselves, '
                f"got {units!r}{'' if which is not None else ' without gradients'}."
            )
        incoming, outgoing = directions(group, which)
        sizes = np.linalg.norm(outgoing if units == "outgoing" else incoming, axis=1)
        # Each again, in turn, where there are more to add than there are.
        new = np.resize(np.argsort(-sizes, kind="stable"), num_units)
    else:
        chosen = units.get(group.name, ()) if isinstance(units, Mapping) else units
        new = np.asarray(chosen)
        is_valid = new.shape == (num_units,) and np.issubdtype(new.dtype, np.integer)
        if not (is_valid and new.min() >= 0 and new.max() < group.size):
            raise ValueError(
                f"group {group.name!r} needs {num_units} of its units 0, ..., {group.size - 1} to "
                f"split, each as often as it is split, got {chosen}."
            )
    copies = np.concatenate([np.arange(group.size), new])
    shares = 1.0 / np.bincount(copies)[copies]
    if draw is not None:
        for unit in np.unique(new):
            own = np.flatnonzero(copies == unit)
            apart = draw.uniform(-1, 1, len(own))
            apart -= apart.mean()
            shares[own] *= 1 + spread * apart / np.abs(apart).max()
    return Split(copies, shares)


def fresh_of(group: Group, num_units: int, draw: np.random.Generator) -> Fresh:
    """Draws the units whose biases and statistics the new ones start with."""
    return Fresh(draw.integers(0, group.size, num_units), group.size)
