"""Networks that grow while they train: where new units help, and whether the cut knows it."""

from experiments.growth.planted_command import GrowPlantedExperiment
from experiments.growth.waist import GrowWaistExperiment

__all__ = ["GrowPlantedExperiment", "GrowWaistExperiment"]
