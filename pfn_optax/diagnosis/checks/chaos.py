"""Nearby inputs that grow apart from layer to layer: evidence of gradients that explode."""

from collections.abc import Iterator

from pfn_optax.diagnosis.case import Case
from pfn_optax.diagnosis.finding import Cause, Evidence, Finding, Severity
from pfn_optax.diagnosis.tangents import measure_tangents

_SHALLOW = 8  # less than an eighth of the digits of a number gets lost


def check_chaos(case: Case) -> Iterator[Finding]:
    """Measures the Lyapunov exponent over depth; alone it is a note."""
    found, limit = case.once(measure_tangents), case.thresholds.lyapunov_exponent
    case.measures["lyapunov_exponent"] = found.exponent
    # A network far shallower than that keeps neighbours together all the same.
    if found.exponent <= limit or found.chaotic_depth > _SHALLOW * found.num_layers:
        return
    yield Finding(
        Cause.EXPLODING_GRADIENT,
        Severity.NOTE,
        f"Nearby inputs grow apart by {found.exponent:.2g} nats a layer: rounding errors have the "
        f"size of the signal after {found.chaotic_depth:.0f} layers, of which {found.num_layers} "
        "were measured.",
        "Residual connections, or smaller weights (critical_init), keep neighbours together.",
        (
            Evidence("Lyapunov exponent", found.exponent, limit, "nats per layer"),
            Evidence("chaotic depth", found.chaotic_depth, None, "layers"),
        ),
        excess=found.exponent / limit,
    )
