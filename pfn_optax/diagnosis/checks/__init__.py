"""The checks of `diagnose`: each file holds one, a function of a `Case` that yields findings.

A check that cannot be run, or not in full, raises `Skip` with the reason; one that does not apply
to such a network, `DoesNotApply`.
"""

from collections.abc import Callable, Iterable

from pfn_optax.diagnosis.case import Case
from pfn_optax.diagnosis.checks.bottleneck import check_bottleneck
from pfn_optax.diagnosis.checks.chaos import check_chaos
from pfn_optax.diagnosis.checks.dead_units import check_dead_units
from pfn_optax.diagnosis.checks.frozen import check_frozen
from pfn_optax.diagnosis.checks.gradients import check_gradients
from pfn_optax.diagnosis.checks.input_scale import check_input_scale
from pfn_optax.diagnosis.checks.learning_rate import (
    check_edge_of_stability,
    check_learning_rate_too_large,
    check_learning_rate_too_small,
)
from pfn_optax.diagnosis.checks.loss_scale import check_loss_scale
from pfn_optax.diagnosis.checks.low_precision import check_low_precision
from pfn_optax.diagnosis.checks.missing_residual import check_missing_residual
from pfn_optax.diagnosis.checks.no_gradient import check_no_gradient
from pfn_optax.diagnosis.checks.nonfinite import check_nonfinite
from pfn_optax.diagnosis.checks.rank_collapse import check_rank_collapse
from pfn_optax.diagnosis.checks.saturation import check_saturation
from pfn_optax.diagnosis.checks.scale import check_scale
from pfn_optax.diagnosis.checks.symmetric_units import check_symmetric_units
from pfn_optax.diagnosis.finding import Finding

Check = Callable[[Case], Iterable[Finding]]

# In the order in which they run, the plainest and cheapest first.
CHECKS: dict[str, Check] = {
    "nonfinite": check_nonfinite,
    "no_gradient": check_no_gradient,
    "symmetric_units": check_symmetric_units,
    "dead_units": check_dead_units,
    "saturation": check_saturation,
    "input_scale": check_input_scale,
    "scale": check_scale,
    "missing_residual": check_missing_residual,
    "rank_collapse": check_rank_collapse,
    "gradients": check_gradients,
    "frozen": check_frozen,
    "learning_rate_too_large": check_learning_rate_too_large,
    "learning_rate_too_small": check_learning_rate_too_small,
    "loss_scale": check_loss_scale,
    "low_precision": check_low_precision,
    "bottleneck": check_bottleneck,
    "chaos": check_chaos,
    "edge_of_stability": check_edge_of_stability,
}
