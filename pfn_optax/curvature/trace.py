"""Trace and diagonal from random probes, by matfree's estimators."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from pfn_optax.curvature.operators import AnyOperator, Operator
from pfn_optax.curvature.status import raise_if_nonfinite


class Estimate(NamedTuple):
    """A mean over probes.

    Attributes:
        value: the mean.
        standard_error: of that mean, of the same shape.
    """

    value: Any
    standard_error: Any


def trace(operator: AnyOperator, *, num_probes: int = 32, key: jax.Array | None = None) -> Estimate:
    r"""Estimates the trace, the sum of all eigenvalues.

    .. math:: \mathrm{tr} A = \mathbb{E} [v^T A v], \quad v_i = \pm 1

    Args:
        operator: of `hessian_operator` or `gauss_newton_operator`.
        num_probes: number of products, 2 at least.
        key: of the probes, `jax.random.key(0)` by default.

    Returns:
        f[] with its standard error.

    Raises:
        ValueError: if there are too few probes.
        CurvatureError: outside jit, if a product is not finite.
        ImportError: if matfree is missing (`pip install pfn_optax[landscape]`).

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.curvature import hessian_operator, trace
        >>> found = trace(hessian_operator(lambda p: jnp.sum(p**2), jnp.ones(5)))
        >>> print(found.value, found.standard_error)
        10.0 0.0

    Reference:
        Hutchinson 1989, "A stochastic estimator of the trace of the influence matrix".
    """
    return _estimate("trace", operator, num_probes, key)


def diagonal(
    operator: AnyOperator, *, num_probes: int = 32, key: jax.Array | None = None
) -> Estimate:
    r"""Estimates the diagonal, the curvature along each parameter.

    .. math:: A_{ii} = \mathbb{E} [v_i (A v)_i], \quad v_i = \pm 1

    Args:
        operator: of `hessian_operator` or `gauss_newton_operator`.
        num_probes: number of products, 2 at least.
        key: of the probes, `jax.random.key(0)` by default.

    Returns:
        Trees like the parameters: the entries with their standard errors.

    Raises:
        ValueError: if there are too few probes.
        CurvatureError: outside jit, if a product is not finite.
        ImportError: if matfree is missing (`pip install pfn_optax[landscape]`).

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.curvature import diagonal, hessian_operator
        >>> scales = jnp.arange(3.0)
        >>> print(diagonal(hessian_operator(lambda p: jnp.sum(scales * p**2), scales)).value)
        [0. 2. 4.]

    Reference:
        Bekas, Kokiopoulou & Saad 2007, "An estimator for the diagonal of a matrix".
    """
    return _estimate("diagonal", operator, num_probes, key)


Quantity = Literal["trace", "diagonal"]


def _estimate(
    quantity: Quantity, operator: AnyOperator, num_probes: int, key: jax.Array | None
) -> Estimate:
    if num_probes < 2:
        raise ValueError(f"num_probes must be at least 2 for a standard error, got {num_probes}.")
    try:
        from matfree import stochtrace
    except ImportError as error:
        raise ImportError(
            f"{quantity} needs matfree: pip install 'pfn_optax[landscape]'."
        ) from error

    key = jax.random.key(0) if key is None else key
    probes = stochtrace.sampler_signs(operator.params, num=num_probes)(key)
    if isinstance(operator, Operator):
        samples = _samples(quantity, operator, probes)
    else:  # both are linear in the operator, so each probe can be averaged over the batches
        samples = operator.mean(lambda part: _samples(quantity, part, probes))
    value = jax.tree.map(lambda leaf: leaf.mean(axis=0), samples)
    error = jax.tree.map(lambda leaf: leaf.std(axis=0, ddof=1) / num_probes**0.5, samples)
    raise_if_nonfinite(jnp.all(jnp.array([jnp.isfinite(v).all() for v in jax.tree.leaves(value)])))
    return Estimate(value, error)


@functools.partial(jax.jit, static_argnums=0)
def _samples(quantity: Quantity, operator: Operator, probes: Any) -> Any:
    """One after the other: a batch of products would take the memory of as many."""
    from matfree import stochtrace

    integrands: dict[str, Callable[[], Callable[..., Any]]] = {
        "trace": stochtrace.monte_carlo_trace,
        "diagonal": stochtrace.monte_carlo_diagonal,
    }
    integrand = integrands[quantity]()
    return jax.lax.map(lambda probe: integrand(operator, probe), probes)
