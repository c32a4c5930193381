"""Tolerances follow from the dtype, here and nowhere else."""

import numpy as np


def rtol(dtype=np.float32, *, factor: float = 32.0) -> float:
    """Relative tolerance for a result of a few dozen roundings."""
    return factor * float(np.finfo(dtype).eps)
