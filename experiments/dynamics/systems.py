"""The chaotic systems whose long averages are differentiated, and the truth about them."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.statistics import Estimate, estimate
from pfn_optax.dynamics import classic, lyapunov_spectrum, rk4
from pfn_optax.dynamics.gradients import Method

SystemName = Literal["Lorenz", "tanh network"]
_TIME_STEP = 0.01
_UNITS, _GAIN, _NETWORK_SEED = 30, 3.0, 2  # of the draws that are chaotic, one


class System(NamedTuple):
    """A step with parameters, its objective, and the settings that each method takes.

    Attributes:
        step: (params, state) -> state.
        objective: (params, state) -> f[].
        params: where to differentiate.
        direction: tree like the parameters; the derivative along it is compared with the truth.
        start: f[n].
        noise: standard deviation per step, for the methods with noise.
        time_step: units of time in a step.
        num_transient: steps to reach the attractor.
        horizons: steps to average over.
        difference: half the distance along the direction for the truth.
        methods: their options.
    """

    step: Callable[[Any, jax.Array], jax.Array]
    objective: Callable[[Any, jax.Array], jax.Array]
    params: jax.Array
    direction: jax.Array
    start: jax.Array
    noise: float
    time_step: float
    num_transient: int
    horizons: tuple[int, ...]
    difference: float
    methods: dict[Method, dict[str, Any]]


def lorenz() -> System:
    """The mean of z, by rho; noise of 2 per root of time for the methods that take it."""

    def field(rho, x):
        return classic.lorenz(x, rho=rho)

    noise = 2 * _TIME_STEP**0.5
    noisy = {"noise": noise, "window": 200, "num_replicas": 32}
    return System(
        step=lambda rho, x: rk4(lambda x: field(rho, x), _TIME_STEP)(x),
        objective=lambda _, x: x[2],
        params=jnp.asarray(28.0),
        direction=jnp.asarray(1.0),
        start=jnp.asarray([1.0, 1.0, 25.0]),
        noise=noise,
        time_step=_TIME_STEP,
        num_transient=1000,
        horizons=(100, 300, 1000, 3000, 10_000),
        difference=1.0,
        methods={
            "backprop": {},
            "shadowing": {"num_unstable": 1, "velocity": field, "segment_steps": 20},
            "kernel": noisy,
            "path_kernel": {**noisy, "alpha": 0.06},
        },
    )


def network() -> System:
    """The mean square activity of a tanh network, by its weights; compared by their gain."""
    key = jax.random.key(_NETWORK_SEED)
    weights = _GAIN / _UNITS**0.5 * jax.random.normal(key, (_UNITS, _UNITS), jnp.float32)
    weights = weights.astype(float)  # the same draw in single and double precision
    noisy = {"noise": 0.1, "window": 20, "num_replicas": 32}
    start = 0.5 * jnp.ones(_UNITS)
    found = lyapunov_spectrum(
        lambda x: jnp.tanh(weights @ x), start, num_steps=2000, num_transient=500
    )
    num_unstable = int((found.exponents > 0).sum())
    return System(
        step=lambda weights, x: jnp.tanh(weights @ x),
        objective=lambda _, x: jnp.square(x).mean(),
        params=weights,
        direction=weights / _GAIN,
        start=start,
        noise=0.1,
        time_step=1.0,
        num_transient=500,
        horizons=(20, 60, 200, 600, 2000),
        difference=0.1,
        methods={
            "backprop": {},
            # More than expand, as it takes them too: exponents near zero make it fail otherwise.
            "shadowing": {"num_unstable": 2 * num_unstable, "segment_steps": 5},
            "shadowing_unstable": {
                "num_unstable": num_unstable,
                "window": 20,
                "segment_steps": 5,
            },
            "kernel": noisy,
            "path_kernel": {**noisy, "alpha": 0.4},
        },
    )


SYSTEMS: dict[SystemName, Callable[[], System]] = {"Lorenz": lorenz, "tanh network": network}


def starts(system: System, keys: jax.Array) -> jax.Array:
    """A start per key, near that of the system; f[num_keys, n]."""
    return system.start + jax.vmap(lambda key: jax.random.normal(key, system.start.shape))(keys)


def true_derivative(
    system: System, *, noise: float, num_members: int, num_steps: int
) -> tuple[Estimate, float]:
    """The derivative of the average along the direction, by a central difference of ensembles.

    Returns:
        Its mean over the members and the 95% interval, and the average itself.
    """

    @jax.jit
    def average(params: jax.Array, keys: jax.Array) -> jax.Array:
        def member(start, key):
            def one(state, number):
                kick = jax.random.normal(jax.random.fold_in(key, number), state.shape)
                state = system.step(params, state) + noise * kick
                return state, system.objective(params, state)

            numbers = jnp.arange(system.num_transient + num_steps)
            _, values = jax.lax.scan(one, start, numbers)
            return values[system.num_transient :].mean()

        return jax.vmap(member)(starts(system, keys), keys)

    keys = jax.random.split(jax.random.key(1), num_members)
    change = system.difference * system.direction
    upper, lower = (
        np.asarray(average(params, keys))
        for params in (system.params + change, system.params - change)
    )
    slope = estimate((upper - lower) / (2 * system.difference))
    return slope, float((upper.mean() + lower.mean()) / 2)
