"""When do two networks merge? Loss barriers before and after alignment, by width and with REPAIR.

Pairs of networks from different seeds: MLPs of growing width (`mlp`), a residual network with batch
norm (`resnet`); the loss along the line between the two (`paths`), as a table and pictures.
"""

from experiments.merge.mlp_experiment import MergeMLPExperiment
from experiments.merge.resnet_experiment import MergeResNetExperiment

__all__ = ["MergeMLPExperiment", "MergeResNetExperiment"]
