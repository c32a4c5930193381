"""A problem in flat form: the state is a vector, whatever trees the user's functions take."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from pfn_optax.dynamics.steps import Step, require_state, require_step
from pfn_optax.paths import named_leaves

Drive = tuple[tuple[Any, ...], tuple[Any, ...]]
"""What one step is given: (its input,) or (), and (the stored next state,) or ()."""


@dataclass(frozen=True)
class System:
    """Step, objective and neutral direction on vectors.

    Attributes:
        step: (params, f[n], drive) -> f[n].
        objective: (params, f[n], drive) -> f[]; of the state after the step with that drive.
        velocity: (params, f[n]) -> f[n], or None.
        unravel: f[n] -> state.
        start: f[n].
        drives: the drives of all steps, leaves with a leading axis of time.
    """

    step: Callable[[Any, jax.Array, Drive], jax.Array]
    objective: Callable[[Any, jax.Array, Drive], jax.Array]
    velocity: Callable[[Any, jax.Array], jax.Array] | None
    unravel: Callable[[jax.Array], Any]
    start: jax.Array
    drives: Drive

    def advance(self, params: Any, state: jax.Array, drive: Drive) -> tuple[jax.Array, jax.Array]:
        """One step and the objective after it; differentiate both at once."""
        after = self.step(params, state, drive)
        return after, self.objective(params, after, drive)


def flat_system(
    step: Step,
    objective: Callable[..., jax.Array],
    velocity: Callable[[Any, Any], Any] | None,
    params: Any,
    state: Any,
    inputs: Any,
    trajectory: Any,
    num_steps: int,
) -> System:
    """Checks a problem and flattens its states.

    Raises:
        ValueError: if anything has a wrong structure, shape or dtype.
    """
    if (state is None) == (trajectory is None):
        raise ValueError("give the state to start from, or the trajectory to follow: one of them.")
    require_parameters(params)
    drives: Drive = (() if inputs is None else (inputs,)), ()
    _require_length(inputs, num_steps, "input", "one entry per step, the transient included")
    if trajectory is not None:
        _require_length(trajectory, num_steps + 1, "trajectory", "the start and what follows it")
        drives = drives[0], (jax.tree.map(lambda leaf: jnp.asarray(leaf)[1:], trajectory),)
        state = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], trajectory)
    state = require_state(state)
    first = jax.tree.map(lambda leaf: leaf[0], drives[0])
    require_step(partial(step, params), state, *first)
    _require_objective(jax.eval_shape(objective, params, state, *first))
    if velocity is not None:
        require_step(partial(velocity, params), state)
    start, unravel = ravel_pytree(state)

    def flat_step(params, vector, drive):
        used, stored = drive
        after = ravel_pytree(step(params, unravel(vector), *used))[0]
        for tree in stored:  # its value is what was stored, its derivative that of the step
            after = ravel_pytree(tree)[0] + (after - jax.lax.stop_gradient(after))
        return after

    def flat_objective(params, vector, drive):
        return jnp.asarray(objective(params, unravel(vector), *drive[0])).astype(start.dtype)

    def flat_velocity(params, vector):
        assert velocity is not None
        return ravel_pytree(velocity(params, unravel(vector)))[0]

    return System(
        flat_step,
        flat_objective,
        None if velocity is None else flat_velocity,
        unravel,
        start,
        drives,
    )


def require_parameters(params: Any) -> None:
    """Checks that there is something to differentiate by.

    Raises:
        ValueError: if `params` is empty or a leaf is not real and floating; the leaf is named.
    """
    leaves = named_leaves(params)
    if not leaves:
        raise ValueError("params has no leaves: there is nothing to differentiate by.")
    for names, leaf in leaves:
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"params leaf {'.'.join(names) or 'itself'} is {dtype}, but gradients, as those of "
                "jax.grad, are by real floating arrays: keep it in the step's closure."
            )


def _require_objective(value: Any) -> None:
    if jax.tree.structure(value) != jax.tree.structure(0):
        raise ValueError(f"the objective must return one number, got {value}.")
    if value.shape or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"the objective must return one real number, got {value.dtype}{list(value.shape)}: "
            "take a mean."
        )


def _require_length(tree: Any, length: int, name: str, meaning: str) -> None:
    for names, leaf in named_leaves(tree):
        shape = jnp.shape(leaf)
        if not shape or shape[0] != length:
            raise ValueError(
                f"{name} leaf {'.'.join(names) or 'itself'} has the shape {list(shape)}, but its "
                f"first axis must be {length}: {meaning}."
            )
