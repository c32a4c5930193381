"""What an estimate of a long-time gradient is, and what can have gone wrong with it."""

import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class GradientStatus(enum.IntEnum):
    """How the estimate of a gradient ended."""

    OK = 1
    """Everything is finite. Whether the method suits the system, its docstring says."""
    NONFINITE_TRAJECTORY = 2
    """A state or the objective became NaN or infinite; `first_nonfinite` is the step."""
    NONFINITE_GRADIENT = 3
    """The trajectory is finite, but the gradient is not: it exploded on the way back."""
    ZERO_DERIVATIVE = 4
    """The step's derivative by the state was zero wherever it was looked at."""
    NOT_EXPANDING = 5
    """`shadowing_unstable` was told of more unstable directions than expand."""
    HIDDEN_PARAMETERS = 6
    """`kernel`: parameters act on a part of the state that has no noise, which it cannot see."""


_REMEDY = {
    GradientStatus.NONFINITE_TRAJECTORY: (
        "step {step} gave NaN or infinity. Start nearer to the attractor, shorten the time step, "
        "or look for the operation with `jax.debug_nans`."
    ),
    GradientStatus.NONFINITE_GRADIENT: (
        "the trajectory is finite but the gradient is not: a chaotic system multiplies cotangents "
        "at every step. From 'backprop' change to 'shadowing' or 'path_kernel'; in 'shadowing' "
        "raise num_unstable to the number of positive exponents or shorten segment_steps; in "
        "'path_kernel' raise alpha."
    ),
    GradientStatus.ZERO_DERIVATIVE: (
        "the derivative of the step by the state is zero everywhere, as of rounding, a sign or an "
        "argmax, so nothing propagates. Use method='kernel', which needs only the derivative by "
        "the parameters. (If the step ignores its state by design, the gradient is right.)"
    ),
    GradientStatus.NOT_EXPANDING: (
        "num_unstable counts directions that do not expand (`exponents` has them): lower it to the "
        "number of positive exponents."
    ),
    GradientStatus.HIDDEN_PARAMETERS: (
        "parameters act on a part of the state that has no noise, which 'kernel' cannot see. Give "
        "that part noise too, or use method='path_kernel', which propagates where there is none."
    ),
}


class GradientError(RuntimeError):
    """An estimate of a gradient that cannot be used; raised by `LongGradient.raise_for_status`."""


class LongGradient(NamedTuple):
    """A long-time average and its gradient by the parameters.

    Attributes:
        value: f[], the average of the objective.
        gradient: tree like the parameters.
        standard_error: tree like the gradient: the statistical error, from batches of consecutive
            segments and groups of replicas; infinite where there is only one of them. The
            systematic error of a method is not in it.
        value_error: f[], the standard error of the value.
        exponents: f[k], nats per step, of the directions that were followed; f[0] without any.
        state: the last state (of the first replica), to go on from.
        status: i32[], a `GradientStatus`.
        first_nonfinite: i32[], the first step, from 0, with a result that is not finite; -1 if
            there is none. Steps of the transient count.
    """

    value: jax.Array
    gradient: Any
    standard_error: Any
    value_error: jax.Array
    exponents: jax.Array
    state: Any
    status: jax.Array
    first_nonfinite: jax.Array

    def raise_for_status(self) -> None:
        """Raises if the estimate cannot be used; for the host, of one or of many (`vmap`).

        Raises:
            GradientError: unless every status is `OK`; the message says what to do.
        """
        for code, step in zip(np.ravel(self.status), np.ravel(self.first_nonfinite), strict=True):
            status = GradientStatus(int(code))
            if status in _REMEDY:
                raise GradientError(f"{status.name}: {_REMEDY[status].format(step=int(step))}")


class Estimate(NamedTuple):
    """What a method hands back; `value_and_grad_long` makes a `LongGradient` of it.

    Attributes:
        values: f[..., num_steps], the objective after every step.
        gradient: tree like the parameters.
        standard_error: tree like the parameters.
        exponents: f[k].
        state: f[n].
        first_nonfinite: i32[], the number of steps or more if there is none.
        suspicion: i32[], the status if everything is finite.
    """

    values: jax.Array
    gradient: Any
    standard_error: Any
    exponents: jax.Array
    state: jax.Array
    first_nonfinite: jax.Array
    suspicion: jax.Array


def status_of(estimate: Estimate, num_steps: int) -> jax.Array:
    """Returns the `GradientStatus`, the first cause first."""
    leaves = jax.tree.leaves(estimate.gradient)
    is_finite = jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]))
    return jnp.select(
        [estimate.first_nonfinite < num_steps, ~is_finite],
        [
            jnp.int32(GradientStatus.NONFINITE_TRAJECTORY),
            jnp.int32(GradientStatus.NONFINITE_GRADIENT),
        ],
        estimate.suspicion,
    )
