"""The shape of the whole spectrum: its density, by stochastic Lanczos quadrature."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pfn_optax.curvature import krylov as spaces
from pfn_optax.curvature.krylov import Loops
from pfn_optax.curvature.operators import AnyOperator, Operator
from pfn_optax.curvature.status import raise_if_nonfinite


class SpectralDensity(NamedTuple):
    """The density of eigenvalues, and the quadrature that it is drawn from.

    Attributes:
        grid: f[num_points], eigenvalues.
        density: f[num_points], the share of eigenvalues per unit of eigenvalue, integral 1.
        width: f[], standard deviation of the Gaussian that stands for each eigenvalue.
        nodes: f[num_probes, num_steps], Ritz values of each probe.
        weights: f[num_probes, num_steps], their shares; they sum to 1 over each probe.
    """

    grid: jax.Array
    density: jax.Array
    width: jax.Array
    nodes: jax.Array
    weights: jax.Array


def spectral_density(
    operator: AnyOperator,
    *,
    num_steps: int = 64,
    num_probes: int = 8,
    num_points: int = 512,
    width: float | None = None,
    key: jax.Array | None = None,
) -> SpectralDensity:
    r"""Estimates the density of eigenvalues.

    For a random unit vector v, the Lanczos iteration gives a Gauss quadrature of the measure that v
    sees, and its mean over v is the density:

    .. math::
        \frac{1}{n} \sum_i g(\lambda_i) \approx \frac{1}{P} \sum_p \sum_j w_{pj} g(\theta_{pj})

    It is exact for polynomials g of degree 2 `num_steps` - 1, up to the randomness of the probes;
    with as many steps as parameters, the nodes of each probe are all eigenvalues.

    The iteration is our own and not matfree's, which divides by zero where the Krylov space is
    exhausted, and needs a product that can be traced: one over batches of data cannot.

    Args:
        operator: of `hessian_operator` or `gauss_newton_operator`.
        num_steps: products per probe, and copies of the parameters in memory; at most the number of
            parameters are taken.
        num_probes: number of random vectors.
        num_points: number of points of the grid, from below the smallest node to above the largest.
        width: standard deviation of the Gaussians. Default: a hundredth of the range of the nodes.
        key: of the probes, `jax.random.key(0)` by default.

    Returns:
        Density, nodes and weights.

    Raises:
        ValueError: if an option is out of range.
        CurvatureError: outside jit, if a product is not finite.

    Example:
        Three quarters of the eigenvalues are 0 and one quarter is 1:

        >>> import jax.numpy as jnp
        >>> from pfn_optax.curvature import hessian_operator, spectral_density
        >>> operator = hessian_operator(lambda p: jnp.sum(p[:100] ** 2) / 2, jnp.ones(400))
        >>> found = spectral_density(operator, num_steps=10)
        >>> share = jnp.trapezoid(jnp.where(found.grid > 0.5, found.density, 0), found.grid)
        >>> print(f"{share:.1f}")
        0.2

    Reference:
        Ghorbani, Krishnan & Xiao 2019, "An investigation into neural net optimization via Hessian
        eigenvalue density". Lin, Saad & Yang 2016, "Approximating spectral densities of large
        matrices".
    """
    for name, value, least in (
        ("num_steps", num_steps, 1),
        ("num_probes", num_probes, 1),
        ("num_points", num_points, 2),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")
    if width is not None and not 0 < width < float("inf"):
        raise ValueError(f"width must be positive and finite, got {width}.")
    num_steps = min(num_steps, sum(leaf.size for leaf in jax.tree.leaves(operator.params)))
    keys = jax.random.split(jax.random.key(0) if key is None else key, num_probes)
    if isinstance(operator, Operator):
        nodes, weights = _compiled(num_steps, operator, keys)
    else:
        found = [_quadrature(num_steps, operator, key, spaces.ON_HOST) for key in keys]
        nodes, weights = (jnp.stack(rows) for rows in zip(*found, strict=True))
    raise_if_nonfinite(jnp.isfinite(nodes).all())
    return _smooth(nodes, weights, width, num_points)


def _quadrature(
    num_steps: int, operator: AnyOperator, key: jax.Array, loops: Loops
) -> tuple[jax.Array, jax.Array]:
    """Nodes and weights of one probe, both f[num_steps]."""
    probe, restarts = jax.random.split(key)
    space = spaces.start(spaces.random_vector(probe, operator.params), num_steps)
    space = spaces.grow(operator, space, 0, restarts, loops)
    nodes, rotation = jnp.linalg.eigh(spaces.symmetric(space))
    return jnp.where(space.is_finite, nodes, jnp.nan), jnp.square(rotation[0])


@functools.partial(jax.jit, static_argnums=0)
def _compiled(num_steps: int, operator: Operator, keys: jax.Array) -> Any:
    """One probe after the other: together they would take the memory of all their bases."""
    return jax.lax.map(lambda key: _quadrature(num_steps, operator, key, spaces.COMPILED), keys)


@functools.partial(jax.jit, static_argnums=3)
def _smooth(nodes: Any, weights: Any, width: Any, num_points: int) -> SpectralDensity:
    low, high = nodes.min(), nodes.max()
    if width is None:
        # The range is 0 where all eigenvalues are the same, or only rounding.
        least = jnp.finfo(nodes.dtype).eps ** 0.5 * jnp.abs(nodes).max()
        width = jnp.maximum(0.01 * (high - low), least)
        width = jnp.where(width > 0, width, 1)
    width = jnp.asarray(width, nodes.dtype)
    grid = jnp.linspace(low - 5 * width, high + 5 * width, num_points, dtype=nodes.dtype)

    def at(point):
        return jnp.sum(weights * jax.scipy.stats.norm.pdf(point, nodes, width)) / len(nodes)

    return SpectralDensity(grid, jax.lax.map(at, grid), width, nodes, weights)
