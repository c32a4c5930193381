"""Networks that grow while they train: where new units help, and whether the cut knows it."""

from experiments.growth.allocation import GrowAllocationExperiment
from experiments.growth.hourglass import GrowHourglassExperiment
from experiments.growth.planted_command import GrowPlantedExperiment
from experiments.growth.reallocating import GrowReallocateExperiment
from experiments.growth.waist import GrowWaistExperiment

__all__ = [
    "GrowAllocationExperiment",
    "GrowHourglassExperiment",
    "GrowPlantedExperiment",
    "GrowReallocateExperiment",
    "GrowWaistExperiment",
]
