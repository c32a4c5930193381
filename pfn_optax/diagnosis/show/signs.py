"""Small drawings beside words."""

import math

from pfn_optax.diagnosis.finding import Severity


def gauge(value: float, limit: float) -> str:
    """A value and its limit, both positive, on a logarithmic scale, beside both as text."""
    low, high = sorted((math.log10(value), math.log10(limit)))
    room = max(0.3, (high - low) / 4)

    def x(at: float) -> float:
        return round(4 + 112 * (math.log10(at) - low + room) / (high - low + 2 * room), 1)

    return (
        '<svg class="gauge" viewBox="0 0 120 14" aria-hidden="true"><path d="M4 7H116"/>'
        f'<path class="beyond" d="M{x(limit)} 7H{x(value)}"/>'
        f'<path class="limit" d="M{x(limit)} 1V13"/><circle cx="{x(value)}" cy="7" r="4"/></svg>'
    )


def severity_icon(level: Severity) -> str:
    """A shape for each severity: not told apart by colour alone."""
    shapes = {
        Severity.CRITICAL: '<path d="M1 1H15V15H1Z"/>',
        Severity.WARNING: '<path d="M8 1L16 15H0Z"/>',
        Severity.NOTE: '<circle cx="8" cy="8" r="7"/>',
    }
    return f'<svg class="icon" viewBox="0 0 16 16" aria-hidden="true">{shapes[level]}</svg>'
