"""Condensation: a wide network trained from small weights is a narrow one, and can be made so.

Reference: Zhang, Zhang, Luo, Xu, "Embedding principle of loss landscape of deep neural networks",
NeurIPS 2021.
"""

from experiments.condensation.experiment import CondenseExperiment

__all__ = ["CondenseExperiment"]
