"""Activations that are almost the same for all examples, and matrices of hardly any rank."""

import math
from collections.abc import Iterator

import numpy as np

from pfn_optax.diagnosis.case import Case, Skip
from pfn_optax.diagnosis.finding import Cause, Evidence, Finding, Severity
from pfn_optax.diagnosis.rows import centred_rank, isometry_gap, rank, varying_share
from pfn_optax.diagnosis.signal import LayerSignal, measure_signal
from pfn_optax.paths import named_leaves

_LEAST_SIDE = 16  # of a matrix whose rank is looked at; of fewer rows it may well be low
_LEAST_WIDTH = 4  # of a layer in which examples could differ in more than one direction


def check_rank_collapse(case: Case) -> Iterator[Finding]:
    """Looks at what differs between examples in each layer, and at the rank of its matrix."""
    signal = case.once(measure_signal)
    if not signal.layers:
        raise Skip(signal.trouble)
    hidden = [
        layer
        for layer in signal.layers
        if layer.layer not in case.structure.heads
        and layer.width > 1
        and layer.pre.shape[1] > 1
        and np.isfinite(layer.pre).all()
        and layer.pre_rms.max() > 0
    ]
    matrices = list(_of_matrices(case))
    yield from matrices
    if not matrices:  # which are behind what activations show
        yield from _of_activations(case, hidden)


def _of_activations(case: Case, hidden: list[LayerSignal]) -> Iterator[Finding]:
    limits = case.thresholds
    shares = {layer: max(map(varying_share, layer.pre)) for layer in hidden}
    ranks = {layer: max(map(centred_rank, layer.pre)) for layer in hidden}
    alike = [layer for layer in hidden if shares[layer] < limits.varying]
    if alike:
        worst = min(alike, key=shares.__getitem__)
        limit, value = limits.varying, shares[worst]
        excess = limit / max(value, 1e-30)
        summary = (
            f"The preactivations of {worst.name} are almost the same for all examples: "
            f"{value:.2g} of their energy differs."
        )
        name = f"share that differs between examples at {worst.name}"
    else:
        alike = _narrow(case, hidden, ranks)
        if not alike:
            return
        worst = min(alike, key=ranks.__getitem__)
        limit, value = limits.directions, ranks[worst]
        excess = limit / max(value, 1e-30)
        summary = (
            f"At {worst.name}, all that differs between examples lies along {value:.2g} "
            f"direction, of {ranks[hidden[0]]:.2g} at {hidden[0].name}."
        )
        name = f"directions in which examples differ at {worst.name}"
    gap = isometry_gap(worst.pre[-1])
    yield Finding(
        Cause.RANK_COLLAPSE,
        case.severity(excess),
        summary,
        "Residual connections, or a norm layer before each activation; initialise at criticality "
        "(pfn_optax.propagation.critical_init); fewer layers.",
        (
            Evidence(name, value, limit),
            Evidence("share that differs between examples", shares[worst]),
            Evidence("activation rank", max(map(rank, worst.pre))),
            Evidence("activation rank without the mean", ranks[worst]),
            *((Evidence("isometry gap", gap, None, "nats"),) if math.isfinite(gap) else ()),
        ),
        tuple(dict.fromkeys(layer.layer for layer in alike)),
        excess=excess,
    )


def _narrow(
    case: Case, hidden: list[LayerSignal], ranks: dict[LayerSignal, float]
) -> list[LayerSignal]:
    """Layers behind which one direction is left, of several in the first and several wanted."""
    heads = [one for one in case.once(measure_signal).layers if one.layer in case.structure.heads]
    num_outputs = sum(layer.width for layer in heads)
    if not hidden or num_outputs < 3 or ranks[hidden[0]] < 2 * case.thresholds.directions:
        return []
    return [
        layer
        for layer in hidden
        if layer.width >= _LEAST_WIDTH and ranks[layer] < case.thresholds.directions
    ]


def _of_matrices(case: Case) -> Iterator[Finding]:
    limit = case.thresholds.kernel_rank
    leaves = dict(named_leaves(case.setup.params))
    ranks = {}
    for layer in case.layout.layers:
        if layer.name in case.structure.heads:
            continue
        matrix = np.moveaxis(np.asarray(leaves[layer.path], np.float32), layer.unit_axis, -1)
        matrix = matrix.reshape(-1, matrix.shape[-1]) if matrix.ndim > 1 else matrix[:, None]
        if min(matrix.shape) >= _LEAST_SIDE and matrix.any() and np.isfinite(matrix).all():
            ranks[layer.name] = (rank(matrix), min(matrix.shape))
    low = sorted((name for name in ranks if ranks[name][0] < limit), key=ranks.__getitem__)
    if not low:
        return
    value, side = ranks[low[0]]
    yield Finding(
        Cause.RANK_COLLAPSE,
        Severity.WARNING,
        f"The matrix of {low[0]} has a rank of {value:.2g}, where {side} were possible: whatever "
        "comes in, all examples leave it along the same direction.",
        "Initialise it at random, all entries independent (jax.nn.initializers.he_normal, "
        "orthogonal); if training made it so, lower the learning rate or the weight decay.",
        tuple(Evidence(f"rank of the matrix of {name}", ranks[name][0], limit) for name in low[:5]),
        tuple(low),
        excess=limit / max(value, 1e-30),
    )
