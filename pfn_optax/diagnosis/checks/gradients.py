"""Gradients that vanish or explode on their way back, from layer to layer or step to step."""

from collections.abc import Iterator, Sequence

import numpy as np

from pfn_optax.diagnosis.case import Case, Skip
from pfn_optax.diagnosis.finding import Cause, Evidence, Finding
from pfn_optax.diagnosis.signal import LayerSignal, measure_signal


def check_gradients(case: Case) -> Iterator[Finding]:
    """Follows the gradient with respect to preactivations back over depth, and over time."""
    signal = case.once(measure_signal)
    if not signal.layers:
        raise Skip(signal.trouble)
    hidden = [layer for layer in signal.layers if layer.layer not in case.structure.heads]
    norms = {layer: float(np.linalg.norm(layer.backward_norm)) for layer in hidden}
    if hidden and np.isfinite(list(norms.values())).all():
        yield from _over_depth(case, hidden, norms)
        yield from _over_time(case, [layer for layer in hidden if layer.is_recurrent])


def _over_depth(
    case: Case, hidden: Sequence[LayerSignal], norms: dict[LayerSignal, float]
) -> Iterator[Finding]:
    limits = case.thresholds
    inputs = [layer for layer in hidden if layer.layer in case.structure.inputs] or hidden[:1]
    first = max(inputs, key=norms.__getitem__)
    largest = max(hidden, key=norms.__getitem__)
    last = hidden[-1]
    slope = _log_slope([norms[layer] for layer in hidden])
    case.measures["gradient_slope"] = slope
    evidence = Evidence("slope of the gradient over the layers", slope, None, "nats per layer")
    if 0 < norms[first] < limits.vanishing * norms[largest]:
        ratio = norms[first] / norms[largest]
        # From the data up to where the gradient has half of its way, in logarithms, behind it.
        small = [layer for layer in hidden if norms[layer] < norms[largest] * ratio**0.5]
        yield Finding(
            Cause.VANISHING_GRADIENT,
            case.severity(limits.vanishing / ratio),
            f"The gradient at {first.name} is {1 / ratio:.3g} times smaller than at "
            f"{largest.name}: the layers near the data hardly learn.",
            "Residual connections around every one or two layers, or a norm layer after each; "
            "initialise at criticality (pfn_optax.propagation.critical_init); ReLU or GELU where "
            "there are sigmoids.",
            (
                Evidence("gradient at the first layer over the largest", ratio, limits.vanishing),
                evidence,
            ),
            tuple(dict.fromkeys(layer.layer for layer in small)),
            excess=limits.vanishing / ratio,
        )
    if norms[last] > 0 and norms[first] > limits.exploding * norms[last]:
        ratio = norms[first] / norms[last]
        large = [layer for layer in hidden if norms[layer] > norms[last] * ratio**0.5]
        yield Finding(
            Cause.EXPLODING_GRADIENT,
            case.severity(ratio / limits.exploding),
            f"The gradient at {first.name} is {ratio:.3g} times larger than at {last.name}, nearer "
            "to the loss: a step that suits one is wrong for the other.",
            "Residual connections, with the norm layer inside of the branch; smaller weights "
            "(pfn_optax.propagation.critical_init); clip by optax.clip_by_global_norm(1.0), or an "
            "optimizer that scales by parameter (optax.adam, optax.lars).",
            (
                Evidence("gradient at the first layer over the last", ratio, limits.exploding),
                evidence,
            ),
            tuple(dict.fromkeys(layer.layer for layer in large)),
            excess=ratio / limits.exploding,
        )


def _log_slope(norms: Sequence[float] | np.ndarray) -> float:
    """By least squares on the logarithms of those that are positive; 0 of fewer than two."""
    values = np.asarray(norms, np.float64)
    places = np.flatnonzero(values > 0)
    if len(places) < 2:
        return 0.0
    return float(np.polyfit(places, np.log(values[places]), 1)[0])


def _over_time(case: Case, layers: Sequence[LayerSignal]) -> Iterator[Finding]:
    """Compares the gradient at the first steps with that at the last; of the cell's best layer."""
    limits = case.thresholds
    known = [layer for layer in layers if len(layer.backward_norm) >= 4]
    known = [layer for layer in known if layer.backward_norm[-2:].max() > 0]
    if not known:
        return
    ratios = {layer: _first_over_last(layer.backward_norm) for layer in known}
    best = max(known, key=ratios.__getitem__)
    norms, ratio = best.backward_norm, ratios[best]
    slope = _log_slope(norms)
    names = tuple(dict.fromkeys(layer.layer for layer in known))
    per_step = Evidence("slope of the gradient over time", slope, None, "nats per step")
    if ratio < limits.vanishing_in_time and slope > limits.vanishing_per_step:
        reach = max(int(np.sum(norms > 1e-3 * norms.max())), 1)
        yield Finding(
            Cause.VANISHING_GRADIENT,
            case.severity(limits.vanishing_in_time / max(ratio, 1e-300)),
            f"Back in time the gradient at {best.name} shrinks by {np.exp(slope):.3g} each step: "
            f"of {len(norms)} steps, {reach} get more than a thousandth.",
            "A gated cell (nnx.GRUCell, nnx.LSTMCell with a forget bias of 1), an orthogonal "
            "recurrent matrix of gain 1, or attention; pfn_optax.dynamics.flossing.",
            (
                per_step._replace(limit=limits.vanishing_per_step),
                Evidence(
                    "gradient at the first step over the last", ratio, limits.vanishing_in_time
                ),
            ),
            names,
            excess=slope / limits.vanishing_per_step,
        )
    if ratio > limits.exploding_in_time:
        yield Finding(
            Cause.EXPLODING_GRADIENT,
            case.severity(ratio / limits.exploding_in_time),
            f"Back in time the gradient at {best.name} grows, to {ratio:.3g} times that of the "
            f"last step over {len(norms)} steps.",
            "Clip (optax.clip_by_global_norm(1.0)), an orthogonal recurrent matrix of gain 1, a "
            "gated cell, or shorter sequences.",
            (
                Evidence(
                    "gradient at the first step over the last", ratio, limits.exploding_in_time
                ),
                per_step,
            ),
            names,
            excess=ratio / limits.exploding_in_time,
        )


def _first_over_last(norms: np.ndarray) -> float:
    """The largest of the first quarter over the largest of the last two steps."""
    return float(norms[: max(len(norms) // 4, 1)].max() / norms[-2:].max())
