"""Which finding explains which: a root cause comes before its symptoms."""

from collections.abc import Sequence
from dataclasses import replace

from pfn_optax.diagnosis.finding import Cause, Finding, Severity

# Of each cause, what may be behind it, the likeliest first.
EXPLANATIONS: dict[Cause, tuple[Cause, ...]] = {
    Cause.NO_GRADIENT: (
        Cause.DEAD_UNITS,
        Cause.SATURATION,
        Cause.SYMMETRIC_UNITS,
        Cause.LOST_SIGNAL,
        Cause.LOW_PRECISION,
    ),
    Cause.DEAD_UNITS: (Cause.SYMMETRIC_UNITS, Cause.INPUT_SCALE),
    Cause.SATURATION: (Cause.INPUT_SCALE,),
    Cause.INIT_TOO_SMALL: (Cause.SYMMETRIC_UNITS, Cause.DEAD_UNITS),
    Cause.INIT_TOO_LARGE: (Cause.INPUT_SCALE,),
    Cause.LOST_SIGNAL: (Cause.SYMMETRIC_UNITS, Cause.DEAD_UNITS, Cause.SATURATION),
    Cause.RANK_COLLAPSE: (
        Cause.SYMMETRIC_UNITS,
        Cause.DEAD_UNITS,
        Cause.SATURATION,
        Cause.INPUT_SCALE,
        Cause.INIT_TOO_SMALL,
        Cause.INIT_TOO_LARGE,
        Cause.LOST_SIGNAL,
        Cause.MISSING_RESIDUAL,
        Cause.BOTTLENECK,
    ),
    Cause.VANISHING_GRADIENT: (
        Cause.DEAD_UNITS,
        Cause.SATURATION,
        Cause.INIT_TOO_SMALL,
        Cause.LOST_SIGNAL,
        Cause.MISSING_RESIDUAL,
        Cause.LOW_PRECISION,
    ),
    Cause.EXPLODING_GRADIENT: (Cause.INIT_TOO_LARGE,),
    Cause.BOTTLENECK: (Cause.SYMMETRIC_UNITS,),
    Cause.LEARNING_RATE_TOO_LARGE: (
        Cause.INPUT_SCALE,
        Cause.INIT_TOO_LARGE,
        Cause.EXPLODING_GRADIENT,
        Cause.LOSS_SCALE,
    ),
    Cause.LEARNING_RATE_TOO_SMALL: (
        Cause.FROZEN,
        Cause.NO_GRADIENT,
        Cause.DEAD_UNITS,
        Cause.SATURATION,
        Cause.SYMMETRIC_UNITS,
        Cause.INIT_TOO_SMALL,
        Cause.LOST_SIGNAL,
        Cause.VANISHING_GRADIENT,
        Cause.LOSS_SCALE,
        Cause.LOW_PRECISION,
    ),
    Cause.LOSS_SCALE: (
        Cause.INPUT_SCALE,
        Cause.INIT_TOO_LARGE,
        Cause.EXPLODING_GRADIENT,
        Cause.INIT_TOO_SMALL,
        Cause.LOST_SIGNAL,
        Cause.VANISHING_GRADIENT,
    ),
    Cause.LOW_PRECISION: (Cause.LOSS_SCALE,),
}


def explained(findings: Sequence[Finding]) -> list[Finding]:
    """Marks findings that another one explains.

    Args:
        findings: all of them.

    Returns:
        The same, with `follows_from` of those that are explained. A note explains nothing; whatever
        is measured where values are not finite follows from these.
    """
    serious = {finding.cause for finding in findings if finding.severity > Severity.NOTE}

    def mark(finding: Finding) -> Finding:
        if finding.follows_from is not None or finding.cause is Cause.NONFINITE:
            return finding
        behind = (Cause.NONFINITE, *EXPLANATIONS.get(finding.cause, ()))
        return replace(finding, follows_from=next((c for c in behind if c in serious), None))

    return [mark(finding) for finding in findings]
