"""Models between models: the straight line from one to another, and the mean of many."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from pfn_optax.paths import named_leaves


def interpolate(a: Any, b: Any, t: Any) -> Any:
    """Returns the model at a point of the line through two models.

    Every leaf is `(1 - t) a + t b`, computed in float32 at least: exactly `a` at 0 and `b` at 1.
    Leaves that are not inexact (counters, random keys) are taken from `a`.

    Args:
        a: the model at `t = 0`: any pytree of arrays.
        b: the model at `t = 1`, aligned with `a` for anything good to lie between.
        t: the point, f32[]; or f32[num_points], for all of them along a new first axis.

    Returns:
        A tree like `a`, with the same dtypes.

    Raises:
        ValueError: if the trees are not of the same model, or `t` has more than one axis.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.align import interpolate
        >>> a, b = {"w": jnp.asarray([0.0, 1.0])}, {"w": jnp.asarray([4.0, 1.0])}
        >>> interpolate(a, b, 0.25)["w"].tolist()
        [1.0, 1.0]
        >>> interpolate(a, b, jnp.linspace(0, 1, 3))["w"].shape
        (3, 2)
    """
    require_alike([a, b])
    if jnp.ndim(t) == 1:
        return jax.vmap(lambda point: _weighted([a, b], [1 - point, point]))(jnp.asarray(t))
    if jnp.ndim(t) > 1:
        raise ValueError(f"t must be a point or a vector of points; got shape {jnp.shape(t)}.")
    return _weighted([a, b], [1 - t, t])


def merge(models: Sequence[Any], *, weights: Any = None) -> Any:
    """Returns the mean of models that are aligned with each other.

    Every leaf is `sum_i w_i x_i`, computed in float32 at least. Leaves that are not inexact are
    taken from the first model. What the units of the mean do is less spread out than in the models:
    `repair` (or `reestimate_batch_stats`, with batch norm) undoes that.

    Args:
        models: the models, each a pytree of arrays.
        weights: f32[num_models], not negative; divided by their sum. Equal by default.

    Returns:
        A tree like the first model, with the same dtypes.

    Raises:
        ValueError: if there is no model, the trees are not of the same model, or the weights do not
            fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.align import merge
        >>> merge([{"w": jnp.zeros(2)}, {"w": jnp.full(2, 4.0)}], weights=[3, 1])["w"].tolist()
        [1.0, 1.0]

    Reference:
        Wortsman et al., "Model soups", ICML 2022.
    """
    if not models:
        raise ValueError("models must hold at least one model to merge.")
    require_alike(models)
    return _weighted(models, normalised(weights, len(models)))


def normalised(weights: Any, num_models: int) -> Any:
    """Weights that sum to one, f[num_models]; equal ones for None."""
    if weights is None:
        return np.full(num_models, 1 / num_models)
    if np.shape(weights) != (num_models,):
        raise ValueError(
            f"weights must be one number per model, shape ({num_models},); got shape "
            f"{np.shape(weights)}."
        )
    if isinstance(weights, Tracer):
        return weights / weights.sum()
    weights = np.asarray(weights, np.float64)
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise ValueError(f"weights must be at least 0, and not all of them 0; got {weights}.")
    return weights / weights.sum()


def require_alike(models: Sequence[Any]) -> None:
    """Checks that trees are of the same model, leaf by leaf.

    Raises:
        ValueError: naming the first leaf that differs.
    """
    expected = {path: jnp.shape(leaf) for path, leaf in named_leaves(models[0])}
    for number, model in enumerate(models[1:], 1):
        received = {path: jnp.shape(leaf) for path, leaf in named_leaves(model)}
        for path in [*expected, *received]:
            left, right = (
                f"shape {shapes[path]}" if path in shapes else "no such leaf"
                for shapes in (expected, received)
            )
            if left != right:
                raise ValueError(
                    f"models must have the same leaves: {'/'.join(path) or 'params'!r} has {left} "
                    f"in model 0 and {right} in model {number}."
                )


def _weighted(models: Sequence[Any], weights: Sequence[Any]) -> Any:
    def mean(first: Any, *others: Any) -> Any:
        if not jnp.issubdtype(first.dtype, jnp.inexact):
            return first
        wide = jnp.promote_types(first.dtype, jnp.float32)
        terms = [
            jnp.asarray(weight, jnp.finfo(wide).dtype) * jnp.asarray(leaf, wide)
            for weight, leaf in zip(weights, (first, *others), strict=True)
        ]
        return sum(terms[1:], terms[0]).astype(first.dtype)

    return jax.tree.map(mean, *models)
