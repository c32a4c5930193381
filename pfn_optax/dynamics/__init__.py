"""Dynamics: how fast the states of a network part, and gradients that survive it.

A system is a step, state -> state or (state, input) -> state: a map, a flow by `rk4`, a recurrent
cell by `cell_step`, a stack of layers with its parameters for inputs.

- `lyapunov_spectrum`, `adjoint_lyapunov_spectrum`: its Lyapunov exponents, with error bars and the
  convergence curve, by products with the Jacobian or with its transpose.
- `kaplan_yorke_dimension`, `entropy_bound`: what the exponents say of the attractor.
- `covariant_vectors`: the directions that belong to them.
- `layer_spectrum`, `finite_time_exponents`: of deep networks, along the depth and over the inputs.
- `flossing_loss`: exponents as a loss. `lyapunov_probe`: exponents during training, as an optax
  transformation.
- `value_and_grad_long`: long-time averages and their gradients, by back-propagation, shadowing,
  kernel differentiation or the path kernel.
- `rk4`, `cell_step`, `along_orbit`: steps of fields, of recurrent cells, on given orbits;
  `classic`: systems whose exponents are known.
"""

from pfn_optax.dynamics import classic
from pfn_optax.dynamics.adjoint import adjoint_lyapunov_spectrum
from pfn_optax.dynamics.cells import cell_step
from pfn_optax.dynamics.covariant import CovariantVectors, covariant_vectors
from pfn_optax.dynamics.dimension import entropy_bound, kaplan_yorke_dimension
from pfn_optax.dynamics.finite_time import finite_time_exponents
from pfn_optax.dynamics.flossing import flossing_loss
from pfn_optax.dynamics.gradients import (
    GradientError,
    GradientStatus,
    LongGradient,
    value_and_grad_long,
)
from pfn_optax.dynamics.layers import layer_spectrum
from pfn_optax.dynamics.probe import LyapunovProbeState, lyapunov_probe
from pfn_optax.dynamics.spectrum import LyapunovSpectrum, lyapunov_spectrum
from pfn_optax.dynamics.status import DynamicsError, DynamicsStatus
from pfn_optax.dynamics.steps import along_orbit, rk4

__all__ = [
    "CovariantVectors",
    "DynamicsError",
    "DynamicsStatus",
    "GradientError",
    "GradientStatus",
    "LongGradient",
    "LyapunovProbeState",
    "LyapunovSpectrum",
    "adjoint_lyapunov_spectrum",
    "along_orbit",
    "cell_step",
    "classic",
    "covariant_vectors",
    "entropy_bound",
    "finite_time_exponents",
    "flossing_loss",
    "kaplan_yorke_dimension",
    "layer_spectrum",
    "lyapunov_probe",
    "lyapunov_spectrum",
    "rk4",
    "value_and_grad_long",
]
