"""Losses whose curvature is known, as cases for the checks."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from pfn_optax.diagnosis import Thresholds, TrainingSetup
from pfn_optax.diagnosis.arguments import checked
from pfn_optax.diagnosis.budget import Budget
from pfn_optax.diagnosis.case import Case

CURVATURES = jnp.linspace(0.5, 10.0, 20)


def quadratic(params: Any, curvatures: Any) -> jax.Array:
    """With the Hessian diag(curvatures), at the point of ones."""
    return jnp.sum(curvatures * params["w"] ** 2) / 2


class SharedBudget(Budget):
    """Keeps what was compiled of a loss, and of an optimizer, for other numbers."""

    programs: ClassVar[dict[Any, Any]] = {}

    def __init__(self, loss: Any, optimizer: Any):
        super().__init__(max_seconds=1e6, max_bytes=None)
        self._loss, self._optimizer = loss, optimizer

    def compile(self, function: Any, *args: Any, what: str, num_runs: int = 1) -> Any:
        leaves, structure = jax.tree.flatten(args)
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        optimizer = self._optimizer if "optimizer" in what else None
        key = what, self._loss, optimizer, structure, shapes
        if key not in self.programs:
            found = super().compile(function, *args, what=what, num_runs=num_runs)
            self.programs[key] = found
        return self.programs[key]


def case_of(loss=quadratic, params=None, batch=CURVATURES, optimizer=None, **options) -> Case:
    limits = {name: options.pop(name) for name in set(options) & set(Thresholds.__annotations__)}
    params = {"w": jnp.ones(20)} if params is None else params
    setup = TrainingSetup(loss, params, batch, optimizer=optimizer, **options)
    budget = SharedBudget(loss, optimizer)
    return Case(checked(setup), Thresholds(**limits), jax.random.key(0), budget)
