"""Systems whose exponents are known, for tests and experiments.

- `lorenz`, a vector field: about .906, 0, -14.57 per unit of time; their sum is
  -(sigma + 1 + beta) everywhere.
- `henon`: about .419 and -1.623; their sum is ln b everywhere.
- `cat_map`: exactly +-ln((3 + sqrt 5) / 2), with eigenvectors that are the same everywhere.
- `doubling_map`, with `doubling_orbit`: exactly ln 2.
- `random_network`: chaotic above a gain of 1, at large sizes.
"""

import jax
import jax.numpy as jnp

from pfn_optax.dynamics.steps import Step


def lorenz(
    state: jax.Array,
    sigma: float | jax.Array = 10.0,
    rho: float | jax.Array = 28.0,
    beta: float | jax.Array = 8 / 3,
) -> jax.Array:
    """Velocity f[3] of Lorenz's model of convection.

    Args:
        state: f[3].
        sigma: Prandtl number.
        rho: Rayleigh number, relative to the onset of convection.
        beta: of the geometry.

    Returns:
        f[3], to be made a step by `rk4(lorenz, 0.01)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.dynamics import classic
        >>> print(classic.lorenz(jnp.array([1.0, 2.0, 3.0])))
        [10. 23. -6.]

    Reference:
        Lorenz 1963, "Deterministic nonperiodic flow".
    """
    x, y, z = state
    return jnp.stack([sigma * (y - x), x * (rho - z) - y, x * y - beta * z])


def henon(state: jax.Array, a: float | jax.Array = 1.4, b: float | jax.Array = 0.3) -> jax.Array:
    """Step of the map of Henon, (x, y) -> (1 - a x^2 + y, b x).

    Args:
        state: f[2].
        a: how much it folds.
        b: what it multiplies areas by.

    Returns:
        f[2].

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.dynamics import classic
        >>> print(classic.henon(jnp.array([0.5, 1.0])))
        [1.65 0.15]

    Reference:
        Henon 1976, "A two-dimensional mapping with a strange attractor".
    """
    x, y = state
    return jnp.stack([1 - a * x * x + y, b * x])


def cat_map(state: jax.Array) -> jax.Array:
    """Step of Arnold's cat map on the torus, (x, y) -> (2 x + y, x + y) mod 1.

    Args:
        state: f[2].

    Returns:
        f[2], in [0, 1).

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.dynamics import classic
        >>> print(classic.cat_map(jnp.array([0.25, 0.125])))
        [0.625 0.375]
    """
    x, y = state
    return jnp.mod(jnp.stack([2 * x + y, x + y]), 1)


def doubling_map(state: jax.Array) -> jax.Array:
    """Step of the doubling map, x -> 2 x mod 1.

    A float has so many bits only, and each step drops one: every orbit in floats is 0 after some
    steps. Take the points of a `doubling_orbit` instead, by `along_orbit`.

    Args:
        state: f[...].

    Returns:
        f[...], in [0, 1).

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.dynamics import classic
        >>> print(classic.doubling_map(jnp.float32(0.75)))
        0.5
    """
    return jnp.mod(2 * state, 1)


def doubling_orbit(key: jax.Array, num_steps: int, dtype: jnp.dtype | None = None) -> jax.Array:
    """Draws an orbit of the doubling map, as typical as one in real numbers.

    It is made backward, x_n = (x_{n+1} + bit) / 2 with random bits, which rounding does not harm.

    Args:
        key: random key.
        num_steps: number of points.
        dtype: of the points, float32 by default.

    Returns:
        f[num_steps], each the double of the last mod 1, up to one rounding.

    Example:
        >>> import jax
        >>> from pfn_optax.dynamics import classic
        >>> orbit = classic.doubling_orbit(jax.random.key(0), 1000)
        >>> print(abs(classic.doubling_map(orbit[:-1]) - orbit[1:]).max() < 1e-6)
        True
    """
    dtype = jnp.result_type(float) if dtype is None else dtype
    last, draw = jax.random.split(key)
    bits = jax.random.bernoulli(draw, shape=(num_steps,)).astype(dtype)

    def back(point, bit):
        point = (point + bit) / 2
        return point, point

    end = jax.random.uniform(last, (), dtype)
    return jax.lax.scan(back, end, bits, reverse=True)[1]


def random_network(key: jax.Array, size: int, *, gain: float | jax.Array = 2.0) -> Step:
    r"""Draws a recurrent network of tanh units, :math:`h \to \tanh(W h)`.

    Args:
        key: random key.
        size: number of units, n.
        gain: of the weights W_ij ~ N(0, gain^2 / n).

    Returns:
        Its step, f[n] -> f[n].

    Raises:
        ValueError: if there is no unit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pfn_optax.dynamics import classic, lyapunov_spectrum
        >>> step = classic.random_network(jax.random.key(0), 50, gain=3.0)
        >>> found = lyapunov_spectrum(step, jnp.ones(50) / 10, num_steps=500, num_exponents=1)
        >>> print(found.exponents[0] > 0)
        True

    Reference:
        Sompolinsky, Crisanti & Sommers 1988, "Chaos in random neural networks".
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}.")
    weights = gain / size**0.5 * jax.random.normal(key, (size, size))
    return lambda state: jnp.tanh(weights @ state)
