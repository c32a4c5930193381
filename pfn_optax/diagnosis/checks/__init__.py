"""The checks of `diagnose`: each file holds one, a function of a `Case` that yields findings.

A check that cannot be run, or not in full, raises `Skip` with the reason.
"""

from collections.abc import Callable, Iterable

from pfn_optax.diagnosis.case import Case
from pfn_optax.diagnosis.checks.dead_units import check_dead_units
from pfn_optax.diagnosis.checks.no_gradient import check_no_gradient
from pfn_optax.diagnosis.checks.nonfinite import check_nonfinite
from pfn_optax.diagnosis.finding import Finding

Check = Callable[[Case], Iterable[Finding]]

# In the order in which they run, the plainest and cheapest first.
CHECKS: dict[str, Check] = {
    "nonfinite": check_nonfinite,
    "no_gradient": check_no_gradient,
    "dead_units": check_dead_units,
}
