"""How far two networks are apart: a squared distance of leaves, each scaled in its own way.

Every objective is the squared distance between two *prepared* trees, and preparing a leaf (an
affine map of all its entries alike) commutes with permuting it. So what is searched is always the
same quadratic form.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from pfn_optax.paths import Path, named_leaves

Objective = str | Mapping[Any, float]
"""`"squared"`, `"standardised"`, or weights of leaves by path."""


def distance(a: Any, b: Any, *, objective: Objective = "squared") -> float:
    r"""Returns the distance between two parameter trees that the alignment makes small.

    - `"squared"`: $\sum_l \lVert a_l - b_l \rVert^2$ over the leaves.
    - `"standardised"`: $\sum_l \frac{1}{n_l} \lVert \hat a_l - \hat b_l \rVert^2$, every leaf of
      $n_l$ entries first moved to mean 0 and scaled to standard deviation 1 (ddof = 1); all leaves
      count alike. A leaf whose entries are all equal is zero.
    - a mapping: $\sum_l w_l \lVert a_l - b_l \rVert^2$, the weights by path, as a tuple or written
      `"Dense_0/kernel"`; 1 for leaves that are not named.

    Leaves of integers count zero.

    Args:
        a: parameters.
        b: other ones of the same structure.
        objective: as above.

    Returns:
        The distance, computed in float64.

    Raises:
        ValueError: if the trees differ or have NaN or complex entries, or the objective is none.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.align import distance
        >>> a, b = {"w": jnp.asarray([1.0, 2.0])}, {"w": jnp.asarray([2.0, 0.0])}
        >>> distance(a, b), distance(a, b, objective={"w": 4.0}), distance(a, a)
        (5.0, 20.0, 0.0)
    """
    left, right = on_host("a", a), on_host("b", b)
    require_same_leaves(left, right)
    return squared_distance(prepared(left, objective), prepared(right, objective))


def squared_distance(a: Any, b: Any) -> float:
    """The squared distance between prepared trees."""
    others = dict(named_leaves(b))
    return float(sum(np.sum(np.square(leaf - others[path])) for path, leaf in named_leaves(a)))


def on_host(name: str, tree: Any) -> Any:
    """The tree in float64, integers as zeros; refuses what cannot be compared.

    Args:
        name: what to call the tree in an error.
        tree: the parameters.
    """
    leaves, treedef = jax.tree.flatten(tree)
    paths = [path for path, _ in named_leaves(tree)]
    values = [
        _real("/".join((name, *path)), leaf) for path, leaf in zip(paths, leaves, strict=True)
    ]
    return treedef.unflatten(values)


def _real(name: str, leaf: Any) -> np.ndarray:
    if isinstance(leaf, (Tracer, jax.ShapeDtypeStruct)):
        raise ValueError(
            f"{name} has no values here: networks are matched on the host, outside of jax.jit; "
            "inside, call pfn_optax.align.assignment.best_assignment."
        )
    kind = getattr(leaf, "dtype", np.result_type(type(leaf)))
    if jnp.issubdtype(kind, jnp.complexfloating):
        raise ValueError(
            f"{name} is complex: distances are of real numbers; pass real and imaginary parts as "
            "two leaves."
        )
    if not jnp.issubdtype(kind, jnp.inexact):
        return np.zeros(np.shape(leaf))
    value = np.asarray(leaf).astype(np.float64)
    if not np.isfinite(value).all():
        what = "NaN" if np.isnan(value).any() else "infinite"
        raise ValueError(f"{name} has {what} entries, which match nothing.")
    return value


def require_same_leaves(a: Any, b: Any, names: tuple[str, str] = ("a", "b")) -> None:
    """Refuses trees that are not of one model."""
    sides = [{path: np.shape(leaf) for path, leaf in named_leaves(tree)} for tree in (a, b)]
    for path in dict.fromkeys((*sides[0], *sides[1])):
        if sides[0].get(path) != sides[1].get(path):
            one, other = (
                f"has shape {side[path]} in {name}" if path in side else f"is missing in {name}"
                for name, side in zip(names, sides, strict=True)
            )
            raise ValueError(
                f"leaf {'/'.join(path) or 'params'!r} {one} and {other}: only networks of one "
                "architecture can be matched."
            )


def prepared(tree: Any, objective: Objective) -> Any:
    """Scales each leaf so that the objective becomes the squared distance.

    Args:
        tree: parameters in float64.
        objective: the objective.

    Raises:
        ValueError: if the objective is not known, or names leaves or weights that cannot be.
    """
    leaves, treedef = jax.tree.flatten(tree)
    if isinstance(objective, Mapping):
        weights = _weights([path for path, _ in named_leaves(tree)], objective)
        return treedef.unflatten(
            [np.sqrt(weight) * leaf for weight, leaf in zip(weights, leaves, strict=True)]
        )
    if objective not in _PREPARATIONS:
        raise ValueError(
            f"objective must be one of {', '.join(map(repr, _PREPARATIONS))} or a mapping of "
            f"weights, got {objective!r}."
        )
    return treedef.unflatten(map(_PREPARATIONS[objective], leaves))


def _standardised(leaf: np.ndarray) -> np.ndarray:
    if leaf.size < 2 or leaf.min() == leaf.max():
        return np.zeros_like(leaf)
    return (leaf - leaf.mean()) / (leaf.std(ddof=1) * np.sqrt(leaf.size))


_PREPARATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "squared": lambda leaf: leaf,
    "standardised": _standardised,
}


def _weights(paths: list[Path], weights: Mapping[Any, float]) -> list[float]:
    found = dict.fromkeys(paths, 1.0)
    for name, weight in weights.items():
        path = tuple(name.split("/")) if isinstance(name, str) else tuple(name)
        if path not in found:
            raise ValueError(
                f"objective: there is no leaf {'/'.join(path)!r} among "
                f"{', '.join(map('/'.join, paths))}."
            )
        if not (np.isfinite(weight) and weight >= 0):
            raise ValueError(
                f"objective: the weight of {'/'.join(path)!r} must be finite and not negative, "
                f"got {weight}."
            )
        found[path] = float(weight)
    return list(found.values())
