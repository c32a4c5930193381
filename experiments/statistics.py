"""Means and 95% intervals over seeds, from Student's t (few seeds, roughly normal accuracies)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

Values = Sequence[float] | np.ndarray

METHOD = "Student's t interval over seeds; differences are paired by seed"


class Estimate(NamedTuple):
    """A mean with its 95% interval; the bounds are NaN for a single seed."""

    mean: float
    low: float
    high: float


def estimate(values: Values) -> Estimate:
    """Mean and 95% t interval: mean +- t(.975, n - 1) s / sqrt(n).

    Args:
        values: One number per seed, `f64[num_seeds]`.

    Returns:
        The estimate.

    Raises:
        ValueError: If there is no value.

    Example:
        >>> [round(bound, 3) for bound in estimate([0.90, 0.92, 0.94])]
        [0.92, 0.87, 0.97]
    """
    values = np.asarray(values, np.float64)
    if values.size == 0:
        raise ValueError("an estimate needs at least one value; got none")
    mean = float(values.mean())
    if values.size == 1:
        return Estimate(mean, math.nan, math.nan)
    half = stats.t.ppf(0.975, values.size - 1) * values.std(ddof=1) / math.sqrt(values.size)
    return Estimate(mean, float(mean - half), float(mean + half))


def paired_difference(treated: Values, control: Values) -> Estimate:
    """Mean and 95% t interval of `treated - control`, seed by seed.

    Pairing removes what a seed has in common in both arms: initial parameters and batch order.

    Args:
        treated: One number per seed.
        control: One number per seed, same seeds in the same order.

    Returns:
        The estimate of the difference.

    Raises:
        ValueError: If the two have different lengths.
    """
    if len(treated) != len(control):
        raise ValueError(
            f"a paired difference needs the same seeds in both arms; got {len(treated)} and "
            f"{len(control)} values"
        )
    return estimate(np.subtract(treated, control))


def bootstrap_difference(
    treated: Values, control: Values, *, num_resamples: int = 10_000, seed: int = 0
) -> Estimate:
    """Mean and 95% percentile bootstrap interval of `treated - control`, seed by seed.

    For what is nowhere near normal, such as accuracies of which some are at chance and others at 1.
    From few seeds it is too narrow: of five, the bounds are near the extremes, no further.

    Args:
        treated: One number per seed.
        control: One number per seed, same seeds in the same order.
        num_resamples: How often to draw as many seeds with replacement.
        seed: Of the drawing.

    Returns:
        The estimate of the difference.

    Raises:
        ValueError: If the two have different lengths.
    """
    mean, *_ = paired_difference(treated, control)
    differences = np.subtract(treated, control)
    drawn = np.random.default_rng(seed).integers(
        differences.size, size=(num_resamples, differences.size)
    )
    low, high = np.percentile(differences[drawn].mean(axis=1), [2.5, 97.5])
    return Estimate(mean, float(low), float(high))
