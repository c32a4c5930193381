"""Training: of healthy networks before a diagnosis, of all to see whether they learn."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.diagnose.recipe import Recipe
from pfn_optax.diagnosis import TrainingSetup

_POOL = 64
"""Different batches; training goes through them again and again."""


def trained(recipe: Recipe, seed: int, steps: int) -> TrainingSetup:
    """The setup after some steps, its batch one that has not been trained on.

    Args:
        recipe: of the setup.
        seed: of initial parameters and batches.
        steps: how many; 0 for the setup as it begins.

    Returns:
        The setup, with the state of its optimizer unless it is at its first step.
    """
    setup, batches = recipe.build(seed)
    if steps == 0:
        return setup
    params, opt_state, _ = _train(setup, batches, steps)
    batch = jax.tree.map(jnp.asarray, batches(_POOL))
    return dataclasses.replace(setup, params=params, opt_state=opt_state, batch=batch)


def losses(recipe: Recipe, seed: int, steps: int) -> np.ndarray:
    """The loss of each training step, f32[steps]."""
    return _train(*recipe.build(seed), steps)[2]


def _train(setup: TrainingSetup, batches: Any, steps: int) -> tuple[Any, Any, np.ndarray]:
    optimizer, params, loss = setup.optimizer, setup.params, setup.loss
    assert optimizer is not None
    graph, others = None, None
    if isinstance(params, nnx.Module):
        graph, params, others = nnx.split(params, nnx.Param, ...)

    def value(params: Any, batch: Any) -> jax.Array:
        own = params if graph is None else nnx.merge(graph, params, others)
        found = loss(own, batch)
        return found[0] if setup.has_aux else found

    @jax.jit  # one step, not a scan of them: inside a loop XLA's convolutions are slow on CPUs
    def step(params: Any, opt_state: Any, batch: Any) -> Any:
        now, gradients = jax.value_and_grad(value)(params, batch)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, now

    opt_state = optimizer.init(params)
    found = []
    for number in range(steps):
        params, opt_state, now = step(params, opt_state, batches(number % _POOL))
        found.append(now)
    if graph is not None:
        params = nnx.merge(graph, params, others)
    return params, opt_state, np.asarray(jnp.stack(found), np.float32)  # bfloat16 is no NumPy type
