"""Minima and saddles of the loss of a small network, to the last digits of float64."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from pfn_optax.curvature import CurvatureError, hessian_operator
from pfn_optax.precision import as_double, double_precision


class CriticalPoint(NamedTuple):
    """Where the search for a critical point ended.

    Attributes:
        params: the point, a tree of NumPy arrays in float64.
        loss: the loss there.
        gradient_norm: the sum of the absolute values of the gradient there.
        eigenvalues: of the Hessian there, f64[num_params], ascending; `inertia` counts their signs.
        status: `"converged"` where the gradient is within the tolerance, else `"stalled"`: at a
            point from which no step makes the gradient smaller.
        losses: the loss at every evaluation, f64[num_evaluations].
        gradient_norms: the norm at every evaluation, f64[num_evaluations].
    """

    params: Any
    loss: float
    gradient_norm: float
    eigenvalues: np.ndarray
    status: Literal["converged", "stalled"]
    losses: np.ndarray
    gradient_norms: np.ndarray


def find_critical_point(
    loss: Callable[..., jax.Array],
    params: Any,
    *args: Any,
    tolerance: float = 1e-11,
    descent_steps: int = 1000,
    newton_steps: int = 1000,
) -> CriticalPoint:
    r"""Descends, then solves for the point at which the gradient is zero.

    Newton's method in a trust region (SciPy) goes down to a minimum, or with few steps towards a
    plateau; Levenberg and Marquardt's method (MINPACK) then takes the steps

    .. math:: \delta = -(H^2 + \mu D^2)^{-1} H g

    that make the gradient smaller: it converges to saddles as to minima, and where the Hessian is
    singular, as on the flat directions of a network that is embedded in a wider one.

    Args:
        loss: (params, *args) -> f[], twice differentiable.
        params: where to start, a tree of real floating-point arrays.
        *args: data. Real numbers are taken as float64 here and in the parameters.
        tolerance: the sum of the absolute values of the gradient at which the point counts.
        descent_steps: steps of the first part at most; 0 to look for the nearest critical point,
            saddles among them.
        newton_steps: steps of the second part at most.

    Returns:
        The point and how it was reached.

    Raises:
        ValueError: if the tolerance or a number of steps is negative, or params have a leaf that
            is no array of real numbers.
        CurvatureError: if the loss or a derivative is not finite on the way.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.curvature import inertia
        >>> from pfn_optax.landscape import find_critical_point
        >>> def loss(p):
        ...     return (p["a"] ** 2 - 1) ** 2 + p["b"] ** 2
        >>> point = find_critical_point(loss, {"a": 0.1, "b": 0.5}, descent_steps=0)
        >>> print(
        ...     point.status, abs(point.params["a"]).round(9), inertia(point.eigenvalues).negative
        ... )
        converged 0.0 1

    Reference:
        Moré, "The Levenberg-Marquardt algorithm: implementation and theory", 1978.
    """
    import scipy.optimize

    for name, value in (
        ("tolerance", tolerance),
        ("descent_steps", descent_steps),
        ("newton_steps", newton_steps),
    ):
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0, got {value}.")
    history: list[tuple[float, float]] = []
    with double_precision():
        params, args = as_double((params, args))
        hessian_operator(loss, params, *args)  # says which leaves are no real numbers
        start, unravel = ravel_pytree(params)

        def value_and_gradient(flat: Any) -> tuple[float, np.ndarray]:
            value, gradient = map(np.asarray, _value_and_gradient(loss, unravel(flat), *args))
            history.append((float(value), float(np.abs(gradient).sum())))
            if not np.isfinite(history[-1]).all():
                raise CurvatureError(
                    f"the loss is {history[-1][0]} and its gradient of size {history[-1][1]} at "
                    f"evaluation {len(history)}. Start nearer to a critical point, or with fewer "
                    "descent_steps, and look for logarithms, roots and divisions in the loss."
                )
            return float(value), gradient

        def hessian(flat: Any) -> Any:
            return np.asarray(_hessian(loss, unravel(flat), *args))

        flat: Any = np.asarray(start)
        if descent_steps:
            flat = scipy.optimize.minimize(
                value_and_gradient,
                flat,
                jac=True,
                hess=hessian,
                method="trust-exact",
                options={"maxiter": descent_steps, "gtol": tolerance / len(flat)},
            ).x
        if newton_steps:
            eps = np.finfo(np.float64).eps
            flat = scipy.optimize.least_squares(
                lambda flat: value_and_gradient(flat)[1],
                flat,
                jac=hessian,  # pyright: ignore[reportArgumentType] - the stubs know names only
                method="lm",
                ftol=eps,
                xtol=eps,
                gtol=eps,
                max_nfev=newton_steps,
            ).x
        value, gradient = value_and_gradient(flat)
        eigenvalues = np.linalg.eigvalsh(hessian(flat))
        params = jax.tree.map(np.asarray, unravel(flat))
    size = float(np.abs(gradient).sum())
    losses, gradient_norms = np.transpose(history)
    status = "converged" if size <= tolerance else "stalled"
    return CriticalPoint(params, value, size, eigenvalues, status, losses, gradient_norms)


def _slope(loss: Callable[..., jax.Array], params: Any, *args: Any) -> tuple[jax.Array, jax.Array]:
    value, gradient = jax.value_and_grad(loss)(params, *args)
    return value, ravel_pytree(gradient)[0]


def _curvature(loss: Callable[..., jax.Array], params: Any, *args: Any) -> jax.Array:
    flat, unravel = ravel_pytree(params)
    matrix = jax.hessian(lambda flat: loss(unravel(flat), *args))(flat)
    return (matrix + matrix.T) / 2


# Compiled once per loss, whatever the start.
_value_and_gradient = jax.jit(_slope, static_argnums=0)
_hessian = jax.jit(_curvature, static_argnums=0)
