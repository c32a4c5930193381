"""What a computation along a trajectory can report from inside a compiled function."""

import enum

import jax
from jax.core import Tracer


class DynamicsStatus(enum.IntEnum):
    """How a sweep along a trajectory ended."""

    WAITING = 0
    """Nothing computed yet."""
    FINISHED = 1
    """All steps were taken; the exponents are as good as their standard errors."""
    UNRESOLVED = 2
    """Between two QR decompositions the directions became parallel up to rounding: the Jacobian is
    singular, or `qr_every` too large. The last exponents may be of rounding errors alone."""
    COLLAPSED = 3
    """A direction was mapped to exactly zero, as where a step is constant: its exponent is -inf."""
    NONFINITE = 4
    """The state or a derivative became NaN or infinite, at the step `first_nonfinite`."""


class DynamicsError(RuntimeError):
    """A trajectory or a derivative along it that is not finite, met outside a compiled function."""


def raise_if_nonfinite(first_nonfinite: jax.Array) -> None:
    """Raises on the host; under a transformation the caller reads the status.

    Args:
        first_nonfinite: i32[], the step, or -1.

    Raises:
        DynamicsError: if it is known here, and a step; it is named.
    """
    if not isinstance(first_nonfinite, Tracer) and first_nonfinite >= 0:
        raise DynamicsError(
            f"step {int(first_nonfinite)} (from 0) made the state or a derivative NaN or infinite. "
            "Look for what leaves the domain of the step or overflows there: take smaller time "
            "steps, another initial state, or a smaller `qr_every` if only the derivatives grow."
        )
