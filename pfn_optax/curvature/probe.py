"""The sharpness during training: an optax transformation that only looks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from pfn_optax.curvature import krylov as spaces
from pfn_optax.curvature.lanczos import Which, extreme_eigenpairs
from pfn_optax.curvature.operators import hessian_operator
from pfn_optax.curvature.status import CurvatureStatus
from pfn_optax.when import when


class HessianProbeState(NamedTuple):
    """State of `hessian_probe`.

    Attributes:
        hessian_step: i32[], steps so far.
        hessian_probes: i32[], how many times the eigenvalues were computed.
        hessian_eigenvalues: f[k] (of both ends f[2 k]), descending, at the last probe whose loss
            was finite; zeros before the first.
        hessian_residuals: f[k], the residual norms that belong to them.
        hessian_sharpness: f[], the largest of them.
        hessian_products: i32[], products that the last probe took.
        hessian_status: i32[], a `CurvatureStatus` of the last probe.
        hessian_vector: tree like the parameters, the sum of the eigenvectors, where the next probe
            starts; () without `warm_start`.
    """

    hessian_step: jax.Array
    hessian_probes: jax.Array
    hessian_eigenvalues: jax.Array
    hessian_residuals: jax.Array
    hessian_sharpness: jax.Array
    hessian_products: jax.Array
    hessian_status: jax.Array
    hessian_vector: Any = ()


def hessian_probe(
    loss: Callable[[Any], jax.Array] | None = None,
    *,
    every: int = 100,
    k: int = 1,
    which: Which = "top",
    tolerance: float = 1e-2,
    num_vectors: int | None = None,
    max_products: int = 100,
    warm_start: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""Records the top eigenvalues of the Hessian every some steps, and passes the updates through.

    The largest is the sharpness: gradient descent with learning rate :math:`\eta` is stable on a
    quadratic up to a sharpness of :math:`2 / \eta`, and training at full batch tends to rise to it
    and stay there.

    The loss is measured at the parameters that are given to `update`, those before the step. Steps
    between probes cost one comparison, also under `vmap`.

    Under `optax.inject_hyperparams`, `every` and `tolerance` may be numbers in the state or
    schedules; `loss`, `k`, `num_vectors` and `max_products` belong in `static_args`.

    Args:
        loss: params -> f[], such as the loss on a fixed batch. By default `update` takes it as the
            extra argument `value_fn`, as `optax.lbfgs` does.
        every: steps between probes; the first is at step `every`.
        k: number of eigenvalues at each end asked for.
        which: `"top"`, `"bottom"` or `"both"`.
        tolerance: relative residual norm to reach; the eigenvalues are far nearer than it.
        num_vectors: as in `extreme_eigenpairs`: so many copies of the parameters in memory.
        max_products: bound on the products of one probe.
        warm_start: start from the eigenvectors of the last probe, at the cost of one copy of the
            parameters in the state.

    Returns:
        A transformation with state `HessianProbeState`.

    Raises:
        ValueError: from here, if `every` is not positive or a size not an integer; from `update`,
            if there is no loss or no `params`, or if an option does not fit the parameters (see
            `extreme_eigenpairs`).

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from pfn_optax.curvature import hessian_probe
        >>> optimizer = optax.chain(optax.sgd(0.1), hessian_probe(every=1))
        >>> def loss(params):
        ...     return jnp.sum(jnp.array([1.0, 2.0, 3.0]) * params**2) / 2
        >>> params = jnp.ones(3)
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update(jax.grad(loss)(params), state, params, value_fn=loss)
        >>> print(updates, f"{optax.tree.get(state, 'hessian_sharpness'):.3f}")
        [-0.1 -0.2 -0.3] 3.000

    Reference:
        Cohen, Kaur, Li, Kolter & Talwalkar 2021, "Gradient descent on neural networks typically
        occurs at the edge of stability".
    """
    if not isinstance(every, Tracer) and every < 1:
        raise ValueError(f"every must be at least 1, got {every}.")
    for name, value in (("k", k), ("num_vectors", num_vectors), ("max_products", max_products)):
        if value is not None and not isinstance(value, int):
            raise ValueError(
                f"{name} shapes the program and must be a Python integer, got {value!r}. Under "
                "`optax.inject_hyperparams`, list it in `static_args`."
            )
    num_values = 2 * k if which == "both" else k

    def init(params):
        dtype = spaces.dtype_of(params)
        return HessianProbeState(
            hessian_step=jnp.zeros((), jnp.int32),
            hessian_probes=jnp.zeros((), jnp.int32),
            hessian_eigenvalues=jnp.zeros(num_values, dtype),
            hessian_residuals=jnp.zeros(num_values, dtype),
            hessian_sharpness=jnp.zeros((), dtype),
            hessian_products=jnp.zeros((), jnp.int32),
            hessian_status=jnp.asarray(CurvatureStatus.WAITING, jnp.int32),
            hessian_vector=optax.tree.zeros_like(params, dtype) if warm_start else (),
        )

    def probe(value_fn, params, state):
        operator = hessian_operator(value_fn, params)
        vector = None
        if warm_start:
            start = spaces.random_vector(jax.random.key(0), params)
            is_known = state.hessian_probes > 0
            vector = jax.tree.map(
                lambda new, old: jnp.where(is_known, old, new), start, state.hessian_vector
            )
        found = extreme_eigenpairs(
            operator,
            k,
            which=which,
            tolerance=tolerance,
            num_vectors=num_vectors,
            max_products=max_products,
            vector=vector,
        )
        total = jax.tree.map(lambda leaf: leaf.sum(axis=0), found.vectors)
        is_good = found.status != CurvatureStatus.NONFINITE
        measured = HessianProbeState(
            hessian_step=state.hessian_step,
            hessian_probes=jnp.asarray(optax.safe_increment(state.hessian_probes)),
            hessian_eigenvalues=found.values,
            hessian_residuals=found.residuals,
            hessian_sharpness=found.values[0],
            hessian_products=found.num_products,
            hessian_status=found.status,
            hessian_vector=total if warm_start else (),
        )
        kept = state._replace(hessian_products=found.num_products, hessian_status=found.status)
        return jax.tree.map(lambda new, old: jnp.where(is_good, new, old), measured, kept)

    def update(updates, state, params=None, **extra_args):
        value_fn = extra_args.get("value_fn") if loss is None else loss
        if value_fn is None:
            raise ValueError(
                "hessian_probe knows no loss: give it one, hessian_probe(loss), or pass "
                "update(..., value_fn=loss)."
            )
        if params is None:
            raise ValueError("hessian_probe needs the parameters: update(updates, state, params).")
        state = state._replace(hessian_step=optax.safe_increment(state.hessian_step))
        is_due = state.hessian_step % every == 0
        # The eigenvalues are recorded, not differentiated.
        params, state = jax.lax.stop_gradient((params, state))
        return updates, when(
            is_due, lambda params, state: probe(value_fn, params, state), params, state
        )

    return optax.GradientTransformationExtraArgs(init, update)
