"""Mean and variance of every channel over a data set, exactly, batch by batch."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.align.channels import BatchNorm, Layer, Sites, sites_of
from pfn_optax.tracing import Equation, Variable, interpret, trace


class Moments(NamedTuple):
    """Statistics of the channels of a value, over examples and positions.

    Attributes:
        count: numbers per channel.
        mean: f64[num_channels].
        variance: f64[num_channels], biased (divided by `count`).
    """

    count: float
    mean: np.ndarray
    variance: np.ndarray

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviations, f64[num_channels]."""
        return np.sqrt(self.variance)


def sites_on(function: Callable[..., Any], params: Any, batches: Iterable[Any]) -> Sites:
    """The sites of a function, on the first batch (see `sites_of`).

    Raises:
        ValueError: if there is no batch, or batches can be read only once.
    """
    require_readable(batches, "batches")
    first = next(iter(batches), None)
    if first is None:
        raise ValueError("batches is empty: statistics need at least one batch.")
    return sites_of(trace(function, params, *first))


def require_readable(batches: Any, name: str) -> None:
    """Checks that batches can be read again and again.

    Raises:
        ValueError: if they cannot.
    """
    if iter(batches) is batches:
        raise ValueError(
            f"{name} is an iterator, which can be read only once, and it is read several times: "
            "pass a list, or an object whose __iter__ starts anew."
        )


def measure(
    function: Callable[..., Any], params: Any, batches: Iterable[Any]
) -> dict[str, Moments]:
    """Measures the channels at all sites of a function, in one pass over the data.

    Batches may differ in size. Their statistics are combined by the law of total variance: the
    variance of all is the mean of the variances plus the variance of the means.

    Args:
        function: `function(params, *batch)`, in evaluation mode.
        params: the parameters.
        batches: tuples of arrays.

    Returns:
        The statistics by name of the owner of the site.

    Raises:
        ValueError: if they are not finite.
    """
    total: dict[str, Moments] = {}
    for batch in batches:
        for name, (count, mean, variance) in _of_batch(function, params, tuple(batch)).items():
            part = Moments(
                float(count), np.asarray(mean, np.float64), np.asarray(variance, np.float64)
            )
            if not (np.isfinite(part.mean).all() and np.isfinite(part.variance).all()):
                raise ValueError(
                    f"the values at {name!r} are not finite: statistics need a model and data "
                    "without infinities and NaN."
                )
            total[name] = _combined(total[name], part) if name in total else part
    return total


def _combined(left: Moments, right: Moments) -> Moments:
    count = left.count + right.count
    share = right.count / count
    gap = right.mean - left.mean
    return Moments(
        count,
        left.mean + share * gap,
        (1 - share) * left.variance + share * right.variance + share * (1 - share) * gap**2,
    )


# Compiled once for each function; a model of the same shapes at another point comes for free.
@functools.partial(jax.jit, static_argnums=0)
def _of_batch(
    function: Callable[..., Any], params: Any, batch: tuple[Any, ...]
) -> dict[str, tuple[Any, Any, Any]]:
    traced = trace(function, params, *batch)
    found: dict[str, tuple[Any, Any, Any]] = {}
    sites = sites_of(traced)
    wanted: dict[int, list[Layer | BatchNorm]] = {}
    for site in (*sites.layers, *sites.norms):
        wanted.setdefault(id(site.value), []).append(site)

    def note(variable: Variable, value: Any) -> None:
        for site in wanted.get(id(variable), ()):
            others = tuple(axis for axis in range(value.ndim) if axis != site.axis)
            value = jnp.asarray(value, jnp.promote_types(value.dtype, jnp.float32))
            count = value.size / value.shape[site.axis]
            found[site.name] = count, value.mean(others), value.var(others)

    def apply(equation: Equation, values: list[Any]) -> list[Any]:
        if equation.run is None:
            raise ValueError(
                "statistics cannot be taken inside of shard_map: pass the function without it."
            )
        results = list(equation.run(*values))
        for variable, result in zip(equation.outputs, results, strict=True):
            note(variable, result)
        return results

    inputs = jax.tree.leaves((params, *batch))
    for variable, value in zip(traced.program.inputs, inputs, strict=True):
        note(variable, value)
    interpret(
        traced.program,
        inputs,
        constant=lambda constant: constant.value,
        apply=apply,
    )
    return found
