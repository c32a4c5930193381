"""What a computation on the Hessian can report from inside a compiled step."""

import enum

import jax
from jax.core import Tracer


class CurvatureStatus(enum.IntEnum):
    """How a computation of eigenvalues ended."""

    WAITING = 0
    """Nothing computed yet."""
    CONVERGED = 1
    """Every residual norm is within the tolerance."""
    UNCONVERGED = 2
    """The bound on the work was reached first; the residual norms say how far each value is."""
    NONFINITE = 3
    """The loss, or a product with its Hessian, is NaN or infinite here."""


NONFINITE_MESSAGE = (
    "a product with the curvature is NaN or infinite at these parameters. Look for the first "
    "non-finite value in the loss (`jax.debug_nans`), or for a derivative that does not exist, as "
    "of a norm or a square root at zero."
)


class CurvatureError(RuntimeError):
    """A loss, gradient or curvature that is not finite, met outside a compiled function."""


def raise_if_nonfinite(is_finite: jax.Array) -> None:
    """Raises `CurvatureError` on the host; under a transformation the caller reads NaN or a status.

    Args:
        is_finite: bool[].

    Raises:
        CurvatureError: if it is known here, and false.
    """
    if not isinstance(is_finite, Tracer) and not is_finite:
        raise CurvatureError(NONFINITE_MESSAGE)
