"""Matching units by what they do on data: correlations of activations."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pfn_optax.units import UnitSpec

Activations = Iterable[Sequence[Mapping[str, Any]]]
"""For each batch one mapping per network, from groups to f[..., size]."""


class CrossCorrelation:
    """Running correlations between the units of several networks, group by group.

    Means and sums of products are kept about the running mean, in float64 (Chan, Golub, LeVeque
    1983), so that large means do not cancel the digits. A unit that never varies correlates with
    nothing.
    """

    def __init__(self, spec: UnitSpec, num_networks: int):
        """Starts from no data."""
        self._sizes = {group.name: group.size for group in spec.groups}
        self._num_networks = num_networks
        self._counts = dict.fromkeys(self._sizes, 0)
        self._means = {name: np.zeros(num_networks * size) for name, size in self._sizes.items()}
        self._products = {
            name: np.zeros((num_networks * size,) * 2) for name, size in self._sizes.items()
        }

    def add(self, batch: Sequence[Mapping[str, Any]]) -> None:
        """Adds a batch: one mapping per network, rows alike.

        Raises:
            ValueError: if networks, groups or shapes do not fit, or there are NaN entries.
        """
        if len(batch) != self._num_networks:
            raise ValueError(
                f"activations: a batch needs one mapping for each of {self._num_networks} "
                f"networks, got {len(batch)}."
            )
        for name, size in self._sizes.items():
            sides = [self._side(name, size, given) for given in batch]
            if len({len(side) for side in sides}) > 1:
                raise ValueError(
                    f"activations of {name!r} have {[len(side) for side in sides]} rows: the "
                    "networks must see the same data."
                )
            values = np.concatenate(sides, axis=1)
            num_new = len(values)
            if not num_new:
                continue
            total = self._counts[name] + num_new
            mean = values.mean(axis=0)
            centred, shift = values - mean, mean - self._means[name]
            weight = self._counts[name] * num_new / total
            self._products[name] += centred.T @ centred + weight * np.outer(shift, shift)
            self._means[name] += shift * (num_new / total)
            self._counts[name] = total

    def _side(self, name: str, size: int, given: Mapping[str, Any]) -> np.ndarray:
        if name not in given:
            raise ValueError(
                f"activations lack the group {name!r}; they have {', '.join(given) or 'none'}."
            )
        values = np.asarray(given[name], np.float64)
        if values.ndim < 2 or values.shape[-1] != size:
            raise ValueError(
                f"activations of {name!r} must have the shape [..., {size}], got {values.shape}."
            )
        if not np.isfinite(values).all():
            raise ValueError(f"activations of {name!r} have NaN or infinite entries.")
        return values.reshape(-1, size)

    def between(self, name: str, one: int, other: int) -> np.ndarray:
        """The correlations of the units of two networks: f64[size, size]."""
        size = self._sizes[name]
        variances = np.diag(self._products[name])
        # What is left of a constant by rounding is not variance.
        floor = 1e-20 * self._counts[name] * np.square(self._means[name])
        deviations = np.sqrt(np.where(variances > floor, variances, np.inf))
        rows, columns = (slice(k * size, (k + 1) * size) for k in (one, other))
        scaled = self._products[name][rows, columns] / deviations[rows, None]
        return scaled / deviations[columns]


def correlations(
    spec: UnitSpec, activations: Activations | None, num_networks: int
) -> CrossCorrelation:
    """Correlations over all batches.

    Raises:
        ValueError: if there are none, or they do not fit.
    """
    if activations is None:
        raise ValueError(
            'method="activation" needs activations: for each batch, one mapping per network from '
            "groups to f[..., size]; see pfn_optax.units.unit_activations."
        )
    found = CrossCorrelation(spec, num_networks)
    num_batches = 0
    for batch in activations:
        found.add(batch)
        num_batches += 1
    if not num_batches:
        raise ValueError("activations is empty: an iterator can be used only once.")
    return found
