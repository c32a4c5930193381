"""How many directions go down, stay level and go up: the inertia of a symmetric matrix."""

import warnings
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from pfn_optax.curvature.status import NONFINITE_MESSAGE, CurvatureError

CLEAR_GAP = 100.0
"""Two decades between zero and not zero are clear."""


class InertiaWarning(UserWarning):
    """The tolerance cuts through a cluster of eigenvalues: their signs are a matter of rounding."""


class Inertia(NamedTuple):
    """Numbers of eigenvalues by sign.

    Attributes:
        negative: eigenvalues below -tolerance.
        zero: eigenvalues with absolute value at most tolerance.
        positive: eigenvalues above tolerance.
        tolerance: what counts as zero.
        gap: smallest absolute eigenvalue beyond the tolerance, over the largest within it (or the
            rounding error of one, eps times the largest, where that is more); infinite where none
            is beyond.
        is_separated: whether the gap is at least `CLEAR_GAP`.
    """

    negative: int
    zero: int
    positive: int
    tolerance: float
    gap: float
    is_separated: bool


def inertia(matrix: ArrayLike | jax.Array, *, tolerance: float | None = None) -> Inertia:
    r"""Counts negative, zero and positive eigenvalues, and says whether the count can be trusted.

    An eigenvalue counts as zero within

    .. math:: \tau = n \, \epsilon \, \max_i |\lambda_i|

    with the dimension n and the machine precision :math:`\epsilon` of the dtype: the rounding error
    of a dense symmetric eigensolver. Where the matrix itself is less certain than that, as the
    Hessian near a critical point, state a larger one. A warning tells when an eigenvalue is too
    near the tolerance to say on which side it belongs.

    Args:
        matrix: f[n], eigenvalues in any order, or f[n, n], a symmetric matrix.
        tolerance: what counts as zero, instead of the above.

    Returns:
        The counts with the tolerance and the gap around it.

    Raises:
        ValueError: if `matrix` is empty, complex, not symmetric or of another shape, or `tolerance`
            is negative or not finite.
        CurvatureError: if an entry is not finite.

    Example:
        >>> import numpy as np
        >>> from pfn_optax.curvature import inertia
        >>> counts = inertia(np.array([-2.0, 1e-17, 1.0, 3.0]))
        >>> print(counts.negative, counts.zero, counts.positive, counts.is_separated)
        1 1 2 True

    Reference:
        Sylvester 1852, the law of inertia.
    """
    values = _eigenvalues(np.asarray(matrix))
    size, eps = np.abs(values), float(np.finfo(values.dtype).eps)
    rounding = eps * float(size.max())
    if tolerance is None:
        tolerance = values.size * rounding
    elif not 0 <= tolerance < np.inf:
        raise ValueError(f"tolerance must be finite and at least 0, got {tolerance}.")
    within, beyond = size[size <= tolerance], size[size > tolerance]
    largest = max(float(within.max(initial=0)), rounding)
    smallest = float(beyond.min(initial=np.inf))
    gap = smallest / largest if largest else np.inf
    result = Inertia(
        negative=int((values < -tolerance).sum()),
        zero=within.size,
        positive=int((values > tolerance).sum()),
        tolerance=float(tolerance),
        gap=gap,
        is_separated=gap >= CLEAR_GAP,
    )
    if not result.is_separated:
        warnings.warn(
            f"the tolerance {tolerance:.1e} does not separate zero from small: the eigenvalues "
            f"next to it are {largest:.1e} and {smallest:.1e} in size, a factor {gap:.1f}. Use "
            "float64, get nearer to the critical point, or state a tolerance that stands in a gap.",
            InertiaWarning,
            stacklevel=2,
        )
    return result


def _eigenvalues(array: np.ndarray) -> np.ndarray:
    if (
        not array.size
        or array.ndim not in (1, 2)
        or (array.ndim == 2 and len(set(array.shape)) > 1)
    ):
        raise ValueError(
            f"inertia takes eigenvalues f[n] or a matrix f[n, n], got the shape {array.shape}."
        )
    if np.iscomplexobj(array):
        raise ValueError(f"inertia takes real numbers, got {array.dtype}.")
    if not np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise CurvatureError(NONFINITE_MESSAGE)
    if array.ndim == 1:
        return array
    asymmetry, size = np.abs(array - array.T).max(), np.abs(array).max()
    if asymmetry > len(array) * float(np.finfo(array.dtype).eps) * size:
        raise ValueError(
            f"the matrix is not symmetric: it differs from its transpose by {asymmetry:.1e}, its "
            f"largest entry is {size:.1e}. Pass (matrix + matrix.T) / 2 if that is what is meant."
        )
    return np.linalg.eigvalsh(array)
