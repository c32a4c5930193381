"""Networks that do not train for a known reason, healthy ones, and what `diagnose` says of them.

Thresholds are chosen by the scenarios in `tuning` and `tuning_healthy`, and judged by those in
`held_out` and `held_out_healthy`: other architectures, widths, depths, layers and magnitudes.
"""

from experiments.diagnose.experiment import DiagnoseExperiment
from experiments.diagnose.proof import TrainScenariosExperiment

__all__ = ["DiagnoseExperiment", "TrainScenariosExperiment"]
