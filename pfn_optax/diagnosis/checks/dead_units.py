"""Units that are zero for every example."""

from collections.abc import Iterator

from pfn_optax.diagnosis.case import Case, Skip
from pfn_optax.diagnosis.finding import Cause, Evidence, Finding, Severity
from pfn_optax.diagnosis.signal import measure_signal


def check_dead_units(case: Case) -> Iterator[Finding]:
    """Looks for layers with an activation most of whose units never come on."""
    signal = case.once(measure_signal)
    if not signal.layers:
        raise Skip(signal.trouble)
    limit = case.thresholds.dead_units
    shares = {
        layer: layer.dead_share for layer in signal.layers if layer.activation and layer.width > 1
    }
    dead = sorted((one for one in shares if shares[one] >= limit), key=lambda one: -shares[one])
    if not dead:
        return
    worst = dead[0]
    is_critical = shares[worst] >= case.thresholds.all_dead
    yield Finding(
        Cause.DEAD_UNITS,
        Severity.CRITICAL if is_critical else Severity.WARNING,
        f"{shares[worst]:.0%} of the {worst.width} units of {worst.name} are 0 for every example, "
        "so they pass nothing on and learn nothing.",
        "Start their biases at 0 and lower the learning rate that drove them there; or use an "
        "activation with a slope below 0 (jax.nn.leaky_relu, jax.nn.gelu), or a norm layer before "
        "it.",
        tuple(Evidence(f"dead units of {one.name}", shares[one], limit) for one in dead[:5]),
        tuple(dict.fromkeys(one.layer for one in dead)),
        excess=shares[worst] / limit,
    )
