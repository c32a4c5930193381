"""Exponents of networks, and gradients and learning where they are positive.

Lyapunov spectra of recurrent networks against their gain (`exponents`, beside `mean_field`); the
gradient of a long average against how long it is, by every method (`horizon`, of the `systems`);
finite-time exponents over the inputs of classifiers (`maps`, of the networks in `classifiers`). A
chaotic recurrent network that must remember, by five gradients (`long_memory`); a chaotic network
of 51 layers, its linear response and its training (`kernel_depth`); PFN before Adam on gradients of
three methods (`pfn_chaos`).

Reference: Engelken, Wolf & Abbott 2023, "Lyapunov spectra of chaotic recurrent neural networks";
Storm, Linander, Bec, Gustavsson & Mehlig 2024, "Finite-time Lyapunov exponents of deep neural
networks"; Engelken 2023, "Gradient flossing"; Ni 2023, "No-propagate algorithm for linear responses
of random chaotic systems"; Ni 2025, "Path-kernel".
"""

from experiments.dynamics.exponents import RNNExponentsExperiment
from experiments.dynamics.horizon import GradientHorizonExperiment
from experiments.dynamics.kernel_depth import KernelDepthExperiment
from experiments.dynamics.long_memory import LongMemoryExperiment
from experiments.dynamics.maps import ExponentMapExperiment
from experiments.dynamics.pfn_chaos import PFNChaosExperiment

__all__ = [
    "ExponentMapExperiment",
    "GradientHorizonExperiment",
    "KernelDepthExperiment",
    "LongMemoryExperiment",
    "PFNChaosExperiment",
    "RNNExponentsExperiment",
]
