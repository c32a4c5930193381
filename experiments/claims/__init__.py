"""The claims of the study on PFN, tested: `python -m experiments claims`."""

from experiments.claims.experiment import ClaimsExperiment

__all__ = ["ClaimsExperiment"]
