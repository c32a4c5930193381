"""Curvature of the loss: the Hessian, its eigenvalues and their signs.

- `hessian_operator`, `gauss_newton_operator`: matrix-vector products on trees of parameters, on one
  batch or a data set; `layer_functions` for one layer at a time.
- `eigenvalues`, `hessian_eigenvalues`, `dense_matrix`: all of it, for small networks.
- `extreme_eigenpairs`: the ends of the spectrum, each pair with its residual norm.
- `spectral_density`, `trace`, `diagonal`: what random probes tell of the whole.
- `inertia`: how many eigenvalues are negative, zero and positive, and whether that is clear;
  `inertia_bounds`: what is certain of it from products alone.
- `hessian_probe`: the top eigenvalues during training, as an optax transformation.
"""

from pfn_optax.curvature.bounds import InertiaBounds, inertia_bounds
from pfn_optax.curvature.dense import dense_matrix, eigenvalues, hessian_eigenvalues
from pfn_optax.curvature.density import SpectralDensity, spectral_density
from pfn_optax.curvature.inertia import Inertia, InertiaWarning, inertia
from pfn_optax.curvature.lanczos import Eigenpairs, extreme_eigenpairs
from pfn_optax.curvature.layers import layer_functions
from pfn_optax.curvature.operators import (
    BatchedOperator,
    Operator,
    gauss_newton_operator,
    hessian_operator,
)
from pfn_optax.curvature.probe import HessianProbeState, hessian_probe
from pfn_optax.curvature.status import CurvatureError, CurvatureStatus
from pfn_optax.curvature.trace import Estimate, diagonal, trace

__all__ = [
    "BatchedOperator",
    "CurvatureError",
    "CurvatureStatus",
    "Eigenpairs",
    "Estimate",
    "HessianProbeState",
    "Inertia",
    "InertiaBounds",
    "InertiaWarning",
    "Operator",
    "SpectralDensity",
    "dense_matrix",
    "diagonal",
    "eigenvalues",
    "extreme_eigenpairs",
    "gauss_newton_operator",
    "hessian_eigenvalues",
    "hessian_operator",
    "hessian_probe",
    "inertia",
    "inertia_bounds",
    "layer_functions",
    "spectral_density",
    "trace",
]
