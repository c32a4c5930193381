"""The scales at which each unit's incoming and outgoing weights are alike."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pfn_optax.align.blocks import Piece, pieces_of
from pfn_optax.paths import named_leaves
from pfn_optax.units import UnitSpec

_MAX_SWEEPS = 1000
_TOLERANCE = 1e-12


def balancing_scales(spec: UnitSpec, params: Any) -> dict[str, np.ndarray]:
    r"""Scales that make what a unit reads as large as what it is read by.

    Of all rescalings that leave the function as it is, the one with the smallest weights. At it,
    for every unit, with the exponents $e_l$ of the leaves that it occurs in,

    $$\sum_l e_l \lVert w_l \rVert^2 = 0.$$

    Convex in the logarithms, and solved for one group after the other; two networks that differ by
    a rescaling become the same.

    Args:
        spec: the spec.
        params: the parameters in float64.

    Returns:
        Positive factors f64[size] by scalable group; 1 for units that read or are read by nothing
        but zeros.

    Reference:
        Stock, Graham, Gribonval, Jegou, "Equi-normalization of neural networks", ICLR 2019.
    """
    leaves = dict(named_leaves(params))
    scalable = {group.name for group in spec.groups if group.is_scalable}
    energies = [
        (piece, np.square(piece.cut(leaves[piece.path])).sum(axis=0))
        for piece in pieces_of(spec)
        if scalable & {dim.group for dim in piece.dims if dim.exponent}
    ]
    logs = {group.name: np.zeros(group.size) for group in spec.groups if group.is_scalable}
    for _ in range(_MAX_SWEEPS):
        largest = 0.0
        for name in logs:
            step = _balanced(name, energies, logs)
            logs[name] = logs[name] + step
            largest = max(largest, np.abs(step).max(initial=0))
        if largest <= _TOLERANCE:
            break
    return {name: np.exp(log) for name, log in logs.items()}


def _balanced(
    name: str, energies: list[tuple[Piece, np.ndarray]], logs: Mapping[str, np.ndarray]
) -> np.ndarray:
    """The change of a group's logarithms that balances it at the present scales of the others."""
    incoming, outgoing = np.zeros_like(logs[name]), np.zeros_like(logs[name])
    largest = 1.0
    for piece, energy in energies:
        dims = piece.grouped
        exponents = [float(dim.exponent or 0) for dim in dims]
        scaled = energy
        for axis, (dim, exponent) in enumerate(zip(dims, exponents, strict=True)):
            if exponent:
                shape = np.ones(energy.ndim, int)
                shape[axis] = -1
                scaled = scaled * np.exp(2 * exponent * logs[str(dim.group)]).reshape(shape)
        axes = [k for k, dim in enumerate(dims) if dim.group == name]
        # On several axes of a leaf the exponents meet entry by entry; each counts its own share.
        for axis in axes:
            own = scaled.sum(axis=tuple(k for k in range(energy.ndim) if k != axis))
            largest = max(largest, sum(abs(exponents[k]) for k in axes))
            if exponents[axis] > 0:
                incoming += exponents[axis] * own
            else:
                outgoing -= exponents[axis] * own
    is_free = (incoming > 0) & (outgoing > 0)
    ratio = np.where(is_free, outgoing, 1) / np.where(is_free, incoming, 1)
    # Exact where the exponents are 1 and -1; a shorter step towards it for larger ones.
    return np.log(ratio) / (4 * largest)
