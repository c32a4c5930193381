"""The loss along the line between two models, and how far it rises above the chord."""

import functools
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.align.interpolation import interpolate
from pfn_optax.align.moments import require_readable


@dataclass(eq=False, frozen=True)
class Curve:
    """Means over a data set along a path of models.

    Attributes:
        points: f64[num_points], from 0 to 1.
        losses: f64[num_points].
        metrics: f64[num_points] by name, whatever else the loss returned.
    """

    points: np.ndarray
    losses: np.ndarray
    metrics: dict[str, np.ndarray]

    @property
    def excess(self) -> np.ndarray:
        """How far the loss lies above the chord between its ends, f64[num_points]."""
        return self.losses - ((1 - self.points) * self.losses[0] + self.points * self.losses[-1])

    @property
    def barrier(self) -> float:
        """The largest excess; 0 where the loss lies nowhere above the chord."""
        return float(self.excess.max())

    @property
    def highest(self) -> float:
        """The point where the excess is largest."""
        return float(self.points[self.excess.argmax()])


def loss_barrier(
    loss: Callable[..., Any],
    a: Any,
    b: Any,
    batches: Mapping[str, Iterable[Any]],
    *,
    num_points: int = 25,
    correction: Callable[[Any, float], Any] | None = None,
    chunk_size: int = 1,
    progress: bool = False,
) -> dict[str, Curve]:
    """Measures the loss on the line between two models.

    The barrier of a curve is

        max_t L((1 - t) a + t b) - ((1 - t) L(a) + t L(b)),

    over evenly spaced `t` in [0, 1], where L is the mean over all examples of a data set: batches
    count by their size.

    Args:
        loss: `loss(model, *batch)`, the mean over the examples of a batch, f32[]; or a pair of it
            and a dict of other means (accuracy), each f32[]. Compiled once for each function
            object: pass the same one again, not a new lambda.
        a: the model at `t = 0`.
        b: the model at `t = 1`.
        batches: the data sets by name. Each is a list of tuples of arrays (or anything that can be
            read again and again), the examples along the first axis; batches may differ in size.
        num_points: number of models, the ends included.
        correction: `correction(model, t)`, what is done to each model before the loss is measured,
            as `repair` or `reestimate_batch_stats`. Applied at the ends as well.
        chunk_size: number of models evaluated at once, by `vmap`. The data is read once for each
            chunk.
        progress: whether to show a progress bar (`tqdm`).

    Returns:
        A curve for each data set.

    Raises:
        ValueError: if a constant is out of range, the models do not fit each other, a data set is
            empty or can be read only once, or the loss returns no scalars.
        ImportError: if tqdm is missing and a bar is asked for.

    Example:
        Between the minima of (1 - |w|)^2 lies w = 0.

        >>> import jax.numpy as jnp
        >>> from pfn_optax.align import loss_barrier
        >>> def loss(w, x):
        ...     return ((x - abs(w)) ** 2).mean()
        >>> a, b = jnp.asarray(-1.0), jnp.asarray(1.0)
        >>> curve = loss_barrier(loss, a, b, {"train": [(jnp.ones(4),)]}, num_points=5)["train"]
        >>> curve.barrier, curve.highest, curve.losses.tolist()
        (1.0, 0.5, [0.0, 0.25, 1.0, 0.25, 0.0])

    Reference:
        Frankle, Dziugaite, Roy, Carbin, "Linear mode connectivity and the lottery ticket
        hypothesis", ICML 2020.
    """
    for name, value, least in (("num_points", num_points, 2), ("chunk_size", chunk_size, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}.")
    if not batches:
        raise ValueError("batches must hold at least one data set.")
    for name, own in batches.items():
        require_readable(own, f"batches[{name!r}]")

    points = np.linspace(0, 1, num_points)
    measured: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in batches}
    with _bar(num_points, progress) as bar:
        for start in range(0, num_points, chunk_size):
            chunk = points[start : start + chunk_size]
            # One compiled shape: the last chunk is filled up with its last point.
            padded = np.pad(chunk, (0, min(chunk_size, num_points) - len(chunk)), mode="edge")
            models = _models(a, b, padded, correction)
            for name, own in batches.items():
                means = _means(loss, models, own, name)
                measured[name].append({key: x[: len(chunk)] for key, x in means.items()})
            if bar is not None:
                bar.update(len(chunk))
    return {name: _curve(points, parts) for name, parts in measured.items()}


_interpolate = jax.jit(interpolate)


def _models(a: Any, b: Any, points: np.ndarray, correction: Any) -> Any:
    """The models at some points, stacked."""
    models = _interpolate(a, b, points)
    if correction is None:
        return models
    corrected = [
        correction(jax.tree.map(lambda leaf, i=i: leaf[i], models), float(point))
        for i, point in enumerate(points)
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *corrected)


def _means(
    loss: Callable[..., Any], models: Any, batches: Iterable[Any], name: str
) -> dict[str, np.ndarray]:
    """Means over a data set for each of the models, the loss under the empty name."""
    sums: dict[str, Any] = {}
    count = 0
    for batch in batches:
        size = len(jax.tree.leaves(batch)[0])
        count += size
        for key, mean in _of_batch(loss, models, tuple(batch)).items():
            sums[key] = sums.get(key, 0) + size * np.asarray(mean, np.float64)
    if not count:
        raise ValueError(f"batches[{name!r}] is empty: a mean needs at least one example.")
    return {key: total / count for key, total in sums.items()}


@functools.partial(jax.jit, static_argnums=0)
def _of_batch(loss: Callable[..., Any], models: Any, batch: tuple[Any, ...]) -> dict[str, Any]:
    def measured(model: Any) -> dict[str, Any]:
        value = loss(model, *batch)
        value, metrics = value if isinstance(value, tuple) else (value, {})
        found = {"": value, **metrics}
        for key, mean in found.items():
            if jnp.shape(mean) != ():
                raise ValueError(
                    f"loss must return means over the batch, shape (); {key or 'the loss'} has "
                    f"shape {jnp.shape(mean)}."
                )
        return found

    return jax.vmap(measured)(models)


def _curve(points: np.ndarray, parts: list[dict[str, np.ndarray]]) -> Curve:
    values = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return Curve(points, values.pop(""), values)


def _bar(total: int, progress: bool) -> Any:
    if not progress:
        return nullcontext()
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError(
            "a progress bar needs tqdm: pip install tqdm, or pass progress=False."
        ) from error
    return tqdm(total=total, desc="barrier", unit=" models", file=sys.stderr)
