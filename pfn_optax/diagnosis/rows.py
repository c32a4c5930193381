"""A few rows of activations, measured on the host, where nothing has to be compiled.

The same measures as in `pfn_optax.propagation.rank`, of float64 rows of NumPy.
"""

import math

import numpy as np


def rank(rows: np.ndarray) -> float:
    """Returns (tr M)^2 / |M|_F^2 of M = H H^T; 0 of zeros, NaN if an entry is not finite."""
    gram = _gram(_scaled(rows))
    norm = float(np.sum(gram**2))
    return float(np.trace(gram) ** 2 / norm) if norm else 0.0


def centred_rank(rows: np.ndarray) -> float:
    """Returns the same without what all rows share, their mean."""
    return rank(rows - rows.mean(axis=0))


def cosine(rows: np.ndarray) -> float:
    """Returns the mean cosine between two rows that are not zero; NaN with fewer than two."""
    rows = _scaled(rows)
    lengths = np.linalg.norm(rows, axis=1)
    rows = rows[lengths > 0] / lengths[lengths > 0, None]
    num = len(rows)
    if num < 2 or not np.isfinite(rows).all():
        return float("nan")
    return float((np.sum(rows.sum(axis=0) ** 2) - num) / (num * (num - 1)))


def varying_share(rows: np.ndarray) -> float:
    """Returns the share of the rows' energy that is not in their mean; 0 of zeros."""
    rows = _scaled(rows)
    energy = float(np.sum(rows**2))
    return float(np.sum((rows - rows.mean(axis=0)) ** 2)) / energy if energy else 0.0


def isometry_gap(rows: np.ndarray) -> float:
    """Returns how far examples are from orthogonal and equally long; infinite where some vanish."""
    values = np.linalg.svd(rows, compute_uv=False)
    if values[0] == 0 or values[-1] <= max(rows.shape) * np.finfo(np.float32).eps * values[0]:
        return math.inf
    logs = 2 * np.log(values / values[0])
    return max(float(np.log(np.mean(np.exp(logs))) - np.mean(logs)), 0.0)


def _scaled(rows: np.ndarray) -> np.ndarray:
    largest = np.max(np.abs(rows), initial=0.0)
    return rows / largest if largest else rows


def _gram(rows: np.ndarray) -> np.ndarray:
    small = rows if rows.shape[0] <= rows.shape[1] else rows.T
    return small @ small.T
