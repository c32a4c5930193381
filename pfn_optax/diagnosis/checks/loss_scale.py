"""A loss in units that make its gradients too small, or too large, to step by."""

import math
from collections.abc import Iterator

from pfn_optax.diagnosis.case import Case
from pfn_optax.diagnosis.finding import Cause, Evidence, Finding, Severity
from pfn_optax.diagnosis.predictions import measure_predictions
from pfn_optax.diagnosis.signal import Signal, measure_signal
from pfn_optax.diagnosis.training import FAIR_PROGRESS, measure_training


def check_loss_scale(case: Case) -> Iterator[Finding]:
    """Compares the loss with 1, and with the predictions; then looks at steps."""
    signal, limits = case.once(measure_signal), case.thresholds
    size = abs(signal.loss)
    if not math.isfinite(size) or not size:
        return
    if size < limits.small_loss:
        yield from _small(case, size)
        return
    square = _output_square(case, signal)
    if size / (1 + square) > limits.large_loss:
        yield from _large(case, size, square)


def _small(case: Case, size: float) -> Iterator[Finding]:
    training = case.once(measure_training)
    progress, response = training.progress, training.response
    is_swamped = response > case.thresholds.scale_response
    if not is_swamped or progress > FAIR_PROGRESS:
        return
    factor = 10.0 ** round(-math.log10(size))
    yield Finding(
        Cause.LOSS_SCALE,
        Severity.CRITICAL if progress < case.thresholds.slow_progress else Severity.WARNING,
        f"The loss is {size:.2g}, and so small are its gradients that a step takes only "
        f"{progress:.1g} of it off; gradients 1e6 times larger would make the step "
        f"{response:.2g} times longer.",
        f"Multiply the loss by about {factor:.0e}, or look for a weight or a sum over the wrong "
        "axis that makes it small. (If the network has been fitted that well, it is done.)",
        (
            Evidence("loss", size, case.thresholds.small_loss),
            Evidence("share of the loss that a step takes off", progress),
            Evidence("growth of the update with gradients 2^20 times larger", response),
        ),
        excess=case.thresholds.small_loss / size,
    )


def _large(case: Case, size: float, square: float) -> Iterator[Finding]:
    training = case.once(measure_training)
    run = training.steps
    if not run.steps or training.response < case.thresholds.scale_response:
        return  # Adam and its like do not mind
    if run.is_finite and run.last < run.losses[0] * (1 - case.thresholds.larger_gain):
        return
    factor = 10.0 ** round(-math.log10(size))
    yield Finding(
        Cause.LOSS_SCALE,
        Severity.CRITICAL,
        f"The loss is {size:.2g} where the predictions are numbers of about "
        f"{math.sqrt(square):.2g}, and the gradients are as large: {len(run.steps)} steps do not "
        "lower it.",
        f"Multiply the loss by about {factor:.0e}: take the mean where there is a sum, bring "
        "targets to unit variance; or use an optimizer that does not mind, as optax.adam.",
        (
            Evidence("loss", size, case.thresholds.large_loss * (1 + square)),
            Evidence("mean square of the predictions", square),
        ),
        excess=size / (1 + square) / case.thresholds.large_loss,
    )


def _output_square(case: Case, signal: Signal) -> float:
    """Mean square of the predictions: the model's own, or what the last layer puts out."""
    predictions = case.once(measure_predictions)
    if predictions is not None:
        square = predictions.mean_square
    else:
        square = float((signal.layers[-1].pre_rms ** 2).max()) if signal.layers else 0.0
    return square if math.isfinite(square) else 0.0
