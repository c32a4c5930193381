r"""The leading exponent of a random recurrent network, in the limit of many units.

In :math:`h' = \tanh(g W h + s u)` with :math:`W_{ij} \sim N(0, 1/N)` and white noise u for inputs,
the sum that a unit takes is Gaussian, and in a chaotic or driven state those of different steps are
independent, so that

.. math::
    q = g^2 \, E \tanh^2(\sqrt q z) + s^2, \qquad
    \lambda_1 = \tfrac12 \ln \big(g^2 \, E \tanh'(\sqrt q z)^2\big)

Without inputs, lambda_1 = ln g up to g = 1 and 2/3 (g - 1)^2 just above. The well-known
(g - 1)^2 / 2, per time constant, is of the network in continuous time, h' = -h + W tanh(h): the
onset is quadratic in both, its prefactor need not be the same.

Reference: Sompolinsky, Crisanti & Sommers 1988, "Chaos in random neural networks"; Molgedey,
Schuchhardt & Schuster 1992, "Suppressing chaos in neural networks by noise".
"""

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.precision import double_precision
from pfn_optax.propagation import mean_field


def leading_exponents(gains: np.ndarray, drive: float = 0.0) -> np.ndarray:
    """Half the logarithm of chi_1: what the weights do to the square of a small difference.

    Args:
        gains: f[n], g.
        drive: s.

    Returns:
        f[n], nats per step.
    """
    with double_precision():
        variances = jnp.asarray(gains, jnp.float64) ** 2
        found = jax.vmap(lambda variance: mean_field(jnp.tanh, variance, drive**2))(variances)
        return np.asarray(jnp.log(found.chi_1) / 2)
