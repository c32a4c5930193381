"""What is wrong with a network that does not train, where, why, and what to do: `diagnose`."""

from pfn_optax.diagnosis.diagnose import diagnose
from pfn_optax.diagnosis.diagnosis import CheckRecord, Diagnosis, LayerProfile
from pfn_optax.diagnosis.finding import Cause, Evidence, Finding, Severity
from pfn_optax.diagnosis.setup import TrainingSetup
from pfn_optax.diagnosis.thresholds import Thresholds

__all__ = [
    "Cause",
    "CheckRecord",
    "Diagnosis",
    "Evidence",
    "Finding",
    "LayerProfile",
    "Severity",
    "Thresholds",
    "TrainingSetup",
    "diagnose",
]
