"""Units that compute the same and get the same gradient, so that they stay the same."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from pfn_optax.diagnosis.case import Case
from pfn_optax.diagnosis.finding import Cause, Evidence, Finding, Severity
from pfn_optax.diagnosis.signal import measure_signal
from pfn_optax.partition import GridLayer, Layer
from pfn_optax.paths import Path, named_leaves
from pfn_optax.table import listed

_ROUNDING = 1e-4  # relative; gradients of units that are the same differ by the order of sums


def check_symmetric_units(case: Case) -> Iterator[Finding]:
    """Looks for units of a layer with equal weights, biases and gradients."""
    signal = case.once(measure_signal)
    params = dict(named_leaves(case.setup.params))
    gradients = dict(named_leaves(signal.gradients))
    limit = case.thresholds.twin_units
    shares = {
        layer.name: share
        for layer in case.layout.layers
        if params[layer.path].ndim > 1
        and "/".join(layer.path) not in case.unreached
        and (share := twin_share(layer, params, gradients)) >= limit
    }
    if not shares:
        return
    names = sorted(shares, key=lambda name: -shares[name])
    yield Finding(
        Cause.SYMMETRIC_UNITS,
        Severity.CRITICAL,
        f"{shares[names[0]]:.0%} of the units of {listed(names, 4)} have the same weights and the "
        "same gradient as another: they learn the same for ever, as one unit would.",
        "Initialise kernels at random (jax.nn.initializers.he_normal), not by a constant.",
        tuple(Evidence(f"units of {name} with a twin", shares[name], limit) for name in names[:5]),
        tuple(names),
        excess=shares[names[0]] / limit,
    )


def twin_share(
    layer: Layer | GridLayer, params: dict[Path, Any], gradients: dict[Path, Any]
) -> float:
    """Returns the share of a layer's units that have a twin.

    Units are compared by two random sums, of their weights and of their gradients: equal ones have
    equal sums, and others do not but by a chance of rounding.
    """
    if not isinstance(layer, Layer) or layer.num_units < 2:
        return 0.0
    weights = _sums(layer, params)
    slopes = _sums(layer, gradients)
    size = np.max(np.abs(slopes), initial=0.0)
    if not (np.isfinite(weights).all() and np.isfinite(size)):
        return 0.0
    # Equal columns may be summed in different orders.
    weight_groups = _grouped(weights, 1e-12 * np.max(np.abs(weights), initial=0.0))
    slope_groups = _grouped(slopes, _ROUNDING * size)
    _, groups, counts = np.unique(
        np.stack([weight_groups, slope_groups]), axis=1, return_inverse=True, return_counts=True
    )
    return float(np.mean(counts[groups.ravel()] > 1))


def _sums(layer: Layer, leaves: dict[Path, Any]) -> np.ndarray:
    """A random sum of each unit's entries in all leaves of the layer, f64[num_units]."""
    random = np.random.default_rng(0)
    total = np.zeros(layer.num_units)
    for path, axis in layer.axes:
        rows = np.moveaxis(np.asarray(leaves[path], np.float64), axis, -1)
        rows = rows.reshape(-1, layer.num_units)
        total += random.standard_normal(len(rows)) @ rows
    return total


def _grouped(values: np.ndarray, near: float) -> np.ndarray:
    """Numbers of groups of values that are each near the next."""
    order = np.argsort(values)
    steps = np.diff(values[order]) > near
    groups = np.empty(len(values), int)
    groups[order] = np.concatenate([[0], np.cumsum(steps)])
    return groups
