r"""Sharpness as the optimizer sees it, and the edge of stability.

An optimizer that moves entry i of the parameters by :math:`-E_i m_i`, with m its momentum, is
stable along an eigenvector of the preconditioned Hessian :math:`E^{1/2} H E^{1/2}` as long as the
eigenvalue is below

- 2 without momentum,
- 2 (1 + b) with m <- b m + g (`optax.trace`, heavy ball),
- 2 (1 + b) / (1 - b) with m <- b m + (1 - b) g (Adam and its family).

Rates E and decay b are measured: by what the optimizer answers to the gradient, and then to a
gradient of zero.

Reference:
    Cohen, Kaur, Li, Kolter & Talwalkar 2021, "Gradient descent on neural networks typically occurs
    at the edge of stability"; Cohen et al. 2022, "Adaptive gradient methods at the edge of
    stability".
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from pfn_optax.curvature import CurvatureError, extreme_eigenpairs
from pfn_optax.diagnosis.case import Case, Skip
from pfn_optax.diagnosis.signal import measure_signal
from pfn_optax.diagnosis.training import Training, measure_training, nodes_of

_PARALLEL = 0.999  # cosine of momentum and update from which there is one learning rate
_SECONDS = 5.0
_MOST_PRODUCTS, _FEWEST_PRODUCTS = 24, 3
_NUM_VECTORS = 10


class Rates(NamedTuple):
    """How an optimizer steps.

    Attributes:
        rates: f32[num_params], E, one for each entry of the raveled parameters.
        limit: of the largest eigenvalue of the preconditioned Hessian.
        is_uniform: whether E is the same everywhere: the learning rate.
    """

    rates: np.ndarray
    limit: float
    is_uniform: bool


class Sharpness(NamedTuple):
    """The largest eigenvalue of the Hessian, and how near it is to the edge of stability.

    Attributes:
        sharpness: of the Hessian itself; None where only the preconditioned one was looked at.
        edge: the largest eigenvalue of the preconditioned Hessian over its limit; beyond 1 steps
            along its eigenvector grow. None where it is not known how the optimizer steps.
        largest_rate: the learning rate at the edge, of an optimizer with one for all parameters.
    """

    sharpness: float | None
    edge: float | None
    largest_rate: float | None


def measured_rates(training: Training) -> Rates | None:
    """Measures how an optimizer steps.

    Args:
        training: the optimizer at work.

    Returns:
        The rates; None where momentum and step have no relation that is known here.

    Raises:
        Skip: if there is not the time or the memory.
    """
    params, batch = training.case.setup.params, training.case.setup.batch
    _ = training.steps  # moments take a few steps to be those of the gradient
    run = training.settled
    _, name = _moments(run.opt_state, params)

    def measure(gradients: Any, state: Any, params: Any, batch: Any) -> Any:
        updates, after = training.answer(gradients, state, params, batch)
        moments, _ = _moments(after, params)
        if moments is None:
            return _flat(updates), _flat(gradients), jnp.float32(0), jnp.float32(1)
        nothing = jax.tree.map(jnp.zeros_like, gradients)
        _, later = training.answer(nothing, after, params, batch)
        moments, shrunk = _flat(moments), _flat(_moments(later, params)[0])
        decay = jnp.linalg.norm(shrunk) / jnp.linalg.norm(moments)
        [adam] = nodes_of(after, (optax.ScaleByAdamState,)) if name == "mu" else [None]
        correction = 1 - decay**adam.count if adam else jnp.float32(1)
        return _flat(updates), moments, decay, correction

    args = run.gradients, run.opt_state, run.params, batch
    measured = training.case.budget.compile(measure, *args, what="the answer of the optimizer")
    updates, moments, decay, correction = jax.device_get(measured(*args))
    updates, moments = updates.astype(np.float64), moments.astype(np.float64)  # no overflow
    size, length = float(np.linalg.norm(moments)), float(np.linalg.norm(updates))
    if not (np.isfinite(size) and np.isfinite(length) and size and length):
        return None
    decay = min(float(decay), 0.9999)
    limit = 2 * (1 + decay) / (1 - decay) if name == "mu" else 2 * (1 + decay)
    if -float(np.vdot(updates / length, moments / size)) > _PARALLEL:
        return Rates(np.full_like(moments, length / size, np.float32), limit, True)
    if name != "mu":
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = np.where(moments == 0, 0, np.maximum(-updates / moments, 0))
    return Rates(np.asarray(rates * correction, np.float32), limit, False)


def measure_sharpness(case: Case) -> Sharpness:
    """Finds the largest eigenvalue by a few Lanczos steps; for `case.once`.

    It is a bound from below, as good as so many steps make it.

    Raises:
        Skip: if parameters are not all real and of 32 bits or more, a product is not finite, or
            there is not the time or the memory.
    """
    for leaf in jax.tree.leaves(case.setup.params):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating) or jnp.finfo(dtype).bits < 32:
            raise Skip(f"sharpness needs real parameters of 32 bits or more, got {dtype}")
    gradients = case.once(measure_signal).gradients
    rates = None
    if case.setup.optimizer is not None:
        rates = measured_rates(case.once(measure_training))
    value = _largest_eigenvalue(case, gradients, rates)
    if rates is None:
        return Sharpness(value, None, None)
    if rates.is_uniform:
        rate = float(rates.rates[0])
        largest = rates.limit / value if value > 0 else np.inf
        return Sharpness(value, value * rate / rates.limit, largest)
    return Sharpness(None, value / rates.limit, None)


def _largest_eigenvalue(case: Case, gradients: Any, rates: Rates | None) -> float:
    flat, unravel = ravel_pytree(case.setup.params)
    if rates is None or rates.is_uniform:
        roots = np.ones(flat.shape, flat.dtype)
    else:
        roots = np.sqrt(rates.rates)

    def product(vector: Any, roots: Any, flat: Any, batch: Any) -> jax.Array:
        def gradient(flat: Any) -> jax.Array:
            return ravel_pytree(jax.grad(case.loss)(unravel(flat), batch))[0]

        return roots * jax.jvp(gradient, (flat,), ((roots * vector).astype(flat.dtype),))[1]

    args = roots.astype(flat.dtype), flat, case.setup.batch
    compiled = case.budget.compile(
        product, flat, *args, what="products with the Hessian", num_runs=_FEWEST_PRODUCTS
    )
    # Much of the gradient lies along the largest eigenvectors.
    start = roots * np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradients)])
    start = start / np.linalg.norm(start) if start.any() else np.ones_like(start)
    start = jnp.asarray(start, flat.dtype)
    began = time.perf_counter()
    jax.block_until_ready(compiled(start, *args))
    seconds = max(time.perf_counter() - began, 1e-9)
    num_products = int(np.clip(_SECONDS / seconds, _FEWEST_PRODUCTS, _MOST_PRODUCTS))
    case.budget.require(num_products * seconds, "products with the Hessian")
    operator = _Product(compiled, flat, args)
    try:
        found = extreme_eigenpairs(
            operator,  # pyright: ignore[reportArgumentType]
            num_vectors=min(num_products, _NUM_VECTORS, flat.size),
            max_products=num_products,
            tolerance=0.05,
            vector=start,
            key=case.key,
        )
    except CurvatureError as error:
        raise Skip(f"the curvature is not finite: {error}") from error
    return float(found.values[0])


@dataclass(frozen=True)
class _Product:
    """Preconditioned Hessian times vector f32[num_params], as an operator that runs on the host."""

    compiled: Callable[..., jax.Array]
    params: jax.Array
    args: tuple[Any, ...]

    def __call__(self, vector: jax.Array) -> jax.Array:
        return self.compiled(vector, *self.args)


def _moments(state: Any, params: Any) -> tuple[Any, str]:
    """The momentum in an optimizer's state, and what the state calls it; None if there is none."""
    structure = jax.tree.structure(params)
    for name, kind in (("mu", optax.ScaleByAdamState), ("trace", optax.TraceState)):
        trees = [getattr(node, name) for node in nodes_of(state, (kind,))]
        found = [tree for tree in trees if jax.tree.structure(tree) == structure]
        if len(found) == 1:
            return found[0], name
    return None, ""


def _flat(tree: Any) -> jax.Array:
    return ravel_pytree(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree))[0]
