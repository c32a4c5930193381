"""A dynamical system is a step: state -> state, or (state, input) -> state.

States are trees of floating leaves. What drives the system (an input sequence, the parameters of
each layer of a stack, noise) comes as `inputs`, a tree whose leaves have one leading axis of time.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.paths import named_leaves

Step = Callable[..., Any]


def rk4(field: Callable[[Any], Any], time_step: float) -> Step:
    """Turns a vector field into a step, by the classic Runge-Kutta method of fourth order.

    Args:
        field: state -> velocity, a tree like the state.
        time_step: length of one step, in the field's units of time.

    Returns:
        The step, state -> state.

    Raises:
        ValueError: if `time_step` is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.dynamics import rk4
        >>> print(f"{rk4(lambda x: -x, 0.1)(jnp.float32(1)):.5f}")  # exp(-0.1)
        0.90484
    """
    if not time_step > 0:
        raise ValueError(f"time_step must be positive, got {time_step}.")

    def along(state, velocity, time):
        return jax.tree.map(lambda x, v: x + jnp.asarray(time, x.dtype) * v, state, velocity)

    def step(state):
        first = field(state)
        second = field(along(state, first, time_step / 2))
        third = field(along(state, second, time_step / 2))
        fourth = field(along(state, third, time_step))
        mean = jax.tree.map(
            lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, first, second, third, fourth
        )
        return along(state, mean, time_step)

    return step


def along_orbit(step: Step) -> Step:
    """Makes a step that stays on given points: it takes each point from its inputs.

    Its derivative is that of the step at the point. For orbits that come from elsewhere: recorded,
    or of a map that floats do not follow, as `classic.doubling_map`.

    Args:
        step: state -> state.

    Returns:
        The step, (state, point) -> state.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pfn_optax.dynamics import along_orbit, classic, lyapunov_spectrum
        >>> orbit = classic.doubling_orbit(jax.random.key(0), 500)
        >>> step = along_orbit(classic.doubling_map)
        >>> found = lyapunov_spectrum(step, orbit[0], inputs=orbit)
        >>> print(f"{jnp.exp(found.exponents[0]):.4f}")
        2.0000
    """

    def follow(state, point):
        return step(jax.tree.map(lambda x, p: p + (x - jax.lax.stop_gradient(x)), state, point))

    return follow


def require_state(state: Any) -> Any:
    """Returns the state as arrays.

    Raises:
        ValueError: if it is empty, or a leaf is not real and floating; the leaf is named.
    """
    require_floating(state)
    return jax.tree.map(jnp.asarray, state)


def require_floating(state: Any) -> None:
    """Checks the leaves of a state, which may be abstract.

    Raises:
        ValueError: if there are no entries, or a leaf is not real and floating; the leaf is named.
    """
    leaves = named_leaves(state)
    if not sum(math.prod(np.shape(leaf)) for _, leaf in leaves):
        raise ValueError("the state has no entries: give the state that the step takes.")
    for names, leaf in leaves:
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"state leaf {'.'.join(names) or 'itself'} is {dtype}, but only real floating "
                "states have derivatives: convert it, or keep what does not change in the step's "
                "closure."
            )


def require_step(step: Step, state: Any, *inputs: Any) -> None:
    """Checks, by shapes alone, that a step returns a state like the one it takes.

    Raises:
        ValueError: if it does not; the leaf is named.
    """
    after = jax.eval_shape(step, state, *inputs)
    if jax.tree.structure(after) != jax.tree.structure(state):
        raise ValueError(
            f"the step must return a state like the one it takes, {jax.tree.structure(state)}, but "
            f"returns {jax.tree.structure(after)}. Of a cell's (carry, output) return the carry."
        )
    for (names, old), (_, new) in zip(named_leaves(state), named_leaves(after), strict=True):
        if (jnp.shape(old), jnp.result_type(old)) != (new.shape, new.dtype):
            raise ValueError(
                f"the step turns state leaf {'.'.join(names) or 'itself'} from "
                f"{jnp.result_type(old)}{list(jnp.shape(old))} into {new.dtype}{list(new.shape)}; "
                "both must agree."
            )
