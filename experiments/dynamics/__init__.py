"""Exponents of networks, and gradients where they are positive.

Lyapunov spectra of recurrent networks against their gain (`exponents`, beside `mean_field`); the
gradient of a long average against how long it is, by every method (`horizon`, of the `systems`);
finite-time exponents over the inputs of classifiers (`maps`, of the networks in `classifiers`).

Reference: Engelken, Wolf & Abbott 2023, "Lyapunov spectra of chaotic recurrent neural networks";
Storm, Linander, Bec, Gustavsson & Mehlig 2024, "Finite-time Lyapunov exponents of deep neural
networks".
"""

from experiments.dynamics.exponents import RNNExponentsExperiment
from experiments.dynamics.horizon import GradientHorizonExperiment
from experiments.dynamics.maps import ExponentMapExperiment

__all__ = ["ExponentMapExperiment", "GradientHorizonExperiment", "RNNExponentsExperiment"]
