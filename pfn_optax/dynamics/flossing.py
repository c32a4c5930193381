"""Gradient flossing: exponents as a loss, to keep gradients from vanishing and exploding."""

from typing import Any

import jax
import jax.numpy as jnp

from pfn_optax.dynamics import sweep
from pfn_optax.dynamics.spectrum import forward
from pfn_optax.dynamics.steps import Step
from pfn_optax.dynamics.sweep import Columns
from pfn_optax.dynamics.tangent import count_steps, flat_system, initial_basis


def flossing_loss(
    step: Step,
    state: Any,
    *,
    num_steps: int | None = None,
    inputs: Any = None,
    num_exponents: int | None = None,
    target: float | jax.Array = 0.0,
    qr_every: int = 1,
    num_transient: int = 0,
    time_step: float | jax.Array = 1.0,
    key: jax.Array | None = None,
) -> jax.Array:
    r"""Mean squared distance of the largest exponents from a target, as a differentiable loss.

    .. math::
        \frac{1}{k} \sum_{i \le k} (\lambda_i - \lambda^*)^2

    Where an exponent is zero, its direction neither vanishes nor explodes over long times. A few
    hundred steps on this loss before training, or some now and then between, let a gradient through
    a long sequence. Differentiate by `jax.grad` with respect to what the step closes over; the
    derivative goes through the QR decompositions. Backward mode keeps k + 1 states per `qr_every`
    steps, and computes what lies between once more.

    Args:
        step: (state) -> state, or (state, input) -> state where there are inputs.
        state: the first state, a tree of real floating leaves.
        num_steps: steps that count; by default as many as there are inputs for.
        inputs: tree with a leading axis of time, `num_transient` and `num_steps` together.
        num_exponents: how many of the largest, k; all by default.
        target: what they should be, a number or f[k].
        qr_every: steps between QR decompositions.
        num_transient: steps before that do not count.
        time_step: units of time in a step.
        key: of the random columns, `jax.random.key(0)` by default.

    Returns:
        f[]; infinite or NaN where the exponents are.

    Raises:
        ValueError: as for `lyapunov_spectrum`.

    Example:
        A step that shrinks everything learns not to:

        >>> import jax, jax.numpy as jnp, optax
        >>> from pfn_optax.dynamics import flossing_loss
        >>> def loss(weights):
        ...     return flossing_loss(lambda h: weights @ h, jnp.ones(2), num_steps=5)
        >>> gradient = jax.jit(jax.grad(loss))
        >>> weights, optimizer = jnp.array([[0.5, 0.2], [0.0, 0.4]]), optax.adam(0.05)
        >>> state = optimizer.init(weights)
        >>> for _ in range(30):
        ...     updates, state = optimizer.update(gradient(weights), state)
        ...     weights = optax.apply_updates(weights, updates)
        >>> print(loss(weights) < 0.01)
        True

    Reference:
        Engelken 2023, "Gradient flossing: improving gradient descent through dynamic control of
        Jacobians".
    """
    num_steps = count_steps(num_steps, inputs, num_unrecorded=num_transient)
    plan = sweep.make_plan(num_steps, num_transient, qr_every, 1, time_step)
    system = flat_system(step, state, inputs)
    columns = Columns.start(initial_basis(system, num_exponents, None, key))
    _, _, growth = forward(system, plan, inputs, columns)
    exponents = growth.sum(axis=0) / (num_steps * jnp.asarray(time_step, growth.dtype))
    return jnp.mean(jnp.square(exponents - jnp.asarray(target, exponents.dtype)))
