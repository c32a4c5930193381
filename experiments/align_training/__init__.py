"""Is it better to align while training, or once at the end? Averages of MLPs from several seeds.

In each repeat a reference is trained, and then others from seeds of their own, with and without
`with_alignment` towards it (`training`); raw, aligned in the end, and aligned all along, they are
averaged, and the averages compared on test images (`summary`).
"""

from experiments.align_training.experiment import AlignTrainingExperiment

__all__ = ["AlignTrainingExperiment"]
