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

import numpy as np

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(201)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def leading_exponent(gain: float, drive: float = 0.0) -> float:
    """Solves for the variance, and evaluates the exponent.

    Args:
        gain: g.
        drive: s.

    Returns:
        Nats per step.
    """
    low, high = 0.0, gain**2 + drive**2  # the variance grows below its fixed point, falls above
    for _ in range(200):
        variance = (low + high) / 2
        grows = gain**2 * _mean(np.tanh(variance**0.5 * _NODES) ** 2) + drive**2 > variance
        low, high = (variance, high) if grows else (low, variance)
    slope = 1 - np.tanh(high**0.5 * _NODES) ** 2
    return float(np.log(gain**2 * _mean(slope**2)) / 2)


def _mean(values: np.ndarray) -> float:
    return float(_WEIGHTS @ values)
