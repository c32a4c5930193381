"""What the model predicts, where `diagnose` is given the model beside the loss."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pfn_optax.diagnosis.arguments import is_floating
from pfn_optax.diagnosis.case import Case
from pfn_optax.propagation.backward_taps import gradient_norm


class Predictions(NamedTuple):
    """The size of the predictions, over all floating leaves.

    Attributes:
        mean_square: of their entries.
        varying: root mean square of what tells examples apart (the deviation from the mean over the
            first axis) over that of all; 0 where every example gets the same.
    """

    mean_square: float
    varying: float


def measure_predictions(case: Case) -> Predictions | None:
    """Runs the model; None without one, or if it predicts no floating numbers; for `case.once`.

    Raises:
        Skip: if there is not the time or the memory.
    """
    model = case.setup.model
    if model is None:
        return None

    def norms(params: Any, batch: Any) -> jax.Array:
        leaves = [leaf for leaf in jax.tree.leaves(model(params, batch)) if is_floating(leaf)]
        found = [
            [gradient_norm(leaf), gradient_norm(leaf - leaf.mean(0)) if leaf.ndim else 0.0]
            for leaf in leaves
        ]
        sizes = jnp.asarray([[leaf.size] * 2 for leaf in leaves], jnp.float32)
        return jnp.stack([jnp.asarray(found, jnp.float32), sizes]) if leaves else jnp.zeros(0)

    args = case.setup.params, case.setup.batch
    found = jax.device_get(case.budget.compile(norms, *args, what="the predictions")(*args))
    if not found.size:
        return None
    whole, deviation = (math.hypot(*column) for column in found[0].T)
    predictions = Predictions(
        mean_square=whole**2 / float(found[1, :, 0].sum()),
        varying=deviation / whole if whole else 0.0,
    )
    case.measures["prediction_rms"] = math.sqrt(predictions.mean_square)
    case.measures["prediction_varying"] = predictions.varying
    return predictions
