"""Does raising the maximum flow help? A regulariser from `flow_value`, beside three rivals.

An MLP on digits whose middle layer starts at low rank (`networks`), trained with each regulariser
(`training`) at several learning rates and strengths; each picks its own by validation accuracy, and
is compared with plain training on the test digits (`summary`).
"""

from experiments.regularise.experiment import RegulariseExperiment

__all__ = ["RegulariseExperiment"]
