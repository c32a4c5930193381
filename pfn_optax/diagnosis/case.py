"""A setup under examination: every measurement made at most once, and shared by the checks."""

from functools import cached_property
from typing import Any

import jax

from pfn_optax.diagnosis.setup import TrainingSetup
from pfn_optax.diagnosis.thresholds import Thresholds


class Skip(Exception):  # noqa: N818 - it is no error
    """Raised by a check that cannot be run, or not in full, with the reason."""


class Case:
    """What the checks are given: the setup, the thresholds, and what was measured so far.

    Attributes:
        setup: what is examined.
        thresholds: what measurements are compared with.
        key: for what is drawn at random.
        measures: numbers about the whole network, to be shown; checks add theirs.
    """

    def __init__(self, setup: TrainingSetup, thresholds: Thresholds, key: jax.Array):
        """Holds the setup; measures nothing yet."""
        self.setup = setup
        self.thresholds = thresholds
        self.key = key
        self.measures: dict[str, float] = {}

    def loss(self, params: Any, batch: Any) -> jax.Array:
        """The loss alone, whatever else the setup's returns."""
        found = self.setup.loss(params, batch)
        return found[0] if self.setup.has_aux else found

    @cached_property
    def loss_and_gradients(self) -> tuple[jax.Array, Any]:
        """The loss, and its gradients with respect to the parameters."""
        return jax.jit(jax.value_and_grad(self.loss))(self.setup.params, self.setup.batch)
