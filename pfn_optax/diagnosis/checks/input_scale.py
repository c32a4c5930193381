"""Data far from zero mean and unit variance, where the first layer sees it."""

from collections.abc import Iterator

import numpy as np

from pfn_optax.diagnosis.case import Case, Skip
from pfn_optax.diagnosis.finding import Cause, Evidence, Finding, Severity
from pfn_optax.diagnosis.signal import LayerSignal, measure_signal


def check_input_scale(case: Case) -> Iterator[Finding]:
    """Looks at what the layers are applied to that nothing trained comes before."""
    signal = case.once(measure_signal)
    if not signal.layers:
        raise Skip(signal.trouble)
    for layer in signal.layers:
        if layer.layer in case.structure.inputs and layer.has_real_input:
            finding = _of(case, layer)
            if finding is not None:
                yield finding
            return  # the first tells; what reaches others by the side may be anything


def _of(case: Case, layer: LayerSignal) -> Finding | None:
    limits = case.thresholds
    rms = float(np.sqrt(np.mean(layer.given_rms**2)))
    mean = float(np.mean(layer.given_mean))
    deviation = max(rms**2 - mean**2, 0.0) ** 0.5
    energies = (layer.given_features**2).mean(axis=0)
    dominance = float(energies.max() / energies.sum()) if energies.sum() else 0.0
    if rms == 0 or not np.isfinite(rms):
        return None
    if deviation < abs(mean) / limits.input_offset:
        return _offset(case, layer, mean, deviation)
    if limits.input_rms_least <= rms <= limits.input_rms:
        if len(energies) >= 4 and dominance > limits.input_dominance:
            return _dominated(case, layer, int(energies.argmax()), dominance)
        return None
    is_large = rms > limits.input_rms
    excess = rms / limits.input_rms if is_large else limits.input_rms_least / rms
    limit = limits.input_rms if is_large else limits.input_rms_least
    effect = (
        "which makes its gradients as much too large and training unstable"
        if is_large
        else "which makes its gradients as much too small"
    )
    return Finding(
        Cause.INPUT_SCALE,
        _severity(case, layer, excess),
        f"The data that {layer.name} is applied to has a root mean square of {rms:.3g} (mean "
        f"{mean:.3g}, standard deviation {deviation:.3g}), {effect}.",
        f"Normalise the data: (x - {mean:.3g}) / {deviation or 1:.3g}, better by feature.",
        (
            Evidence("root mean square of the data", rms, limit),
            Evidence("mean of the data", mean),
            Evidence("standard deviation of the data", deviation),
        ),
        (layer.layer,),
        excess=excess,
    )


def _severity(case: Case, layer: LayerSignal, excess: float) -> Severity:
    """A note where a norm layer comes next: scale and shift of the data do not matter then."""
    before, after = float(layer.pre_rms.max()), float(layer.post_rms.max())
    is_normed = layer.bounds is None and not 0.1 < before / max(after, 1e-30) < 10
    if is_normed and 0.1 < after < 3:
        return Severity.NOTE
    return case.severity(excess)


def _offset(case: Case, layer: LayerSignal, mean: float, deviation: float) -> Finding:
    limit = case.thresholds.input_offset
    ratio = abs(mean) / deviation if deviation else float("inf")
    return Finding(
        Cause.INPUT_SCALE,
        _severity(case, layer, ratio / limit),
        f"The data that {layer.name} is applied to varies little about its mean: mean {mean:.3g}, "
        f"standard deviation {deviation:.3g}.",
        f"Take the mean off the data: (x - {mean:.3g}) / {deviation or 1:.3g}, better by feature.",
        (
            Evidence("mean over standard deviation of the data", ratio, limit),
            Evidence("mean of the data", mean),
            Evidence("standard deviation of the data", deviation),
        ),
        (layer.layer,),
        excess=ratio / limit,
    )


def _dominated(case: Case, layer: LayerSignal, feature: int, share: float) -> Finding:
    limit = case.thresholds.input_dominance
    return Finding(
        Cause.INPUT_SCALE,
        _severity(case, layer, 1.0),
        f"Feature {feature} of the data that {layer.name} is applied to has {share:.1%} of the "
        "energy of all, so the others hardly count.",
        "Normalise each feature by its own mean and standard deviation.",
        (Evidence("share of the energy of one feature", share, limit),),
        (layer.layer,),
        excess=share / limit,
    )
