"""The embedding principle: networks of all widths rest at the critical points of the narrow ones.

Loss curves of ReLU networks of several widths and what they compute at a plateau that they share
(`plateaus`); how often networks of many starts are at each loss (`spectrum`); the Hessian of a
critical point before and after embedding (`eigenvalues`); and how often the inertia that a split
adds is the predicted one (`predictions`).

Reference: Zhang, Zhang, Luo, Xu, "Embedding principle of loss landscape of deep neural networks",
NeurIPS 2021.
"""

from experiments.embedding.eigenvalues import EigenvaluesExperiment
from experiments.embedding.plateaus import LossCurvesExperiment, PlateauExperiment
from experiments.embedding.predictions import SplitsExperiment
from experiments.embedding.spectrum import LossSpectrumExperiment

__all__ = [
    "EigenvaluesExperiment",
    "LossCurvesExperiment",
    "LossSpectrumExperiment",
    "PlateauExperiment",
    "SplitsExperiment",
]
