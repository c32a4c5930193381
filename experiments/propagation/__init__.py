"""Theses on signal propagation, measured.

Rank against depth, with batch norm and without (`rank_depth`); decay of the isometry gap under
layer norm (`isometry`); growth of gradients back through batch norm (`norm_gradients`): random
networks in bare arrays (`layers`). Which parts of an architecture keep the rank (`architectures`,
of the Flax models in `models`); rank, cosine and gradients while classifiers (`networks`) learn
(`training`).
"""

from experiments.propagation.architectures import RankArchitecturesExperiment
from experiments.propagation.isometry import IsometryDecayExperiment
from experiments.propagation.norm_gradients import NormGradientsExperiment
from experiments.propagation.rank_depth import RankDepthExperiment
from experiments.propagation.training import RankTrainingExperiment

__all__ = [
    "IsometryDecayExperiment",
    "NormGradientsExperiment",
    "RankArchitecturesExperiment",
    "RankDepthExperiment",
    "RankTrainingExperiment",
]
