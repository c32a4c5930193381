"""Units at the ends of the range of their activation."""

from collections.abc import Iterator

import numpy as np

from pfn_optax.diagnosis.case import Case, Skip
from pfn_optax.diagnosis.checks.scale import over_rounds
from pfn_optax.diagnosis.finding import Cause, Evidence, Finding, Severity
from pfn_optax.diagnosis.signal import LayerSignal, measure_signal


def check_saturation(case: Case) -> Iterator[Finding]:
    """Looks at activations with a range that is known: tanh, sigmoid, erf."""
    signal = case.once(measure_signal)
    if not signal.layers:
        raise Skip(signal.trouble)
    limits = case.thresholds

    def limit_of(layer: LayerSignal) -> float:
        is_gate = layer.is_recurrent and layer.activation == "logistic"
        return limits.saturated_gates if is_gate else limits.saturated

    shares = {
        layer: share
        for layer in signal.layers
        if (share := layer.saturated_share) is not None
        and layer.layer not in case.structure.heads
        and np.isfinite(layer.pre_rms).all()  # or it is no matter of size
        and share > limit_of(layer)
    }
    if not shares:
        return
    worst = max(shares, key=shares.__getitem__)
    ordered = sorted(shares, key=lambda layer: -shares[layer])
    size = over_rounds(worst.pre_rms)
    share, limit = shares[worst], limit_of(worst)
    # What is left to learn with is the rest: a tenth of it at most is critical.
    is_critical = 1 - share < 0.1
    yield Finding(
        Cause.SATURATION,
        Severity.CRITICAL if is_critical else Severity.WARNING,
        f"{share:.0%} of the activations of {worst.name} are at an end of their range, where "
        f"`{worst.activation}` is flat: its preactivations are of size {size:.3g}.",
        f"Make its weights and biases about {max(size, 1.5):.2g} times smaller "
        "(pfn_optax.propagation.critical_init), put a norm layer before the activation, or lower "
        "the learning rate that drove it there.",
        (
            Evidence(f"saturated activations of {worst.name}", share, limit),
            Evidence("size of its preactivations", size),
            *(
                Evidence(f"saturated activations of {one.name}", shares[one], limit_of(one))
                for one in ordered[1:5]
            ),
        ),
        tuple(dict.fromkeys(layer.layer for layer in ordered)),
        excess=share / limit,
    )
