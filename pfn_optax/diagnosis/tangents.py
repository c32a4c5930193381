r"""How fast nearby inputs grow apart over depth: the Lyapunov exponent of the stack of layers.

A random tangent at the data is pushed through the network, once. Its norm relative to that of the
preactivations is measured at each layer; the slope of its logarithm is the exponent
:math:`\lambda` per layer. Where it is positive, rounding grows to the size of the signal in
:math:`\ln(1 / \epsilon) / \lambda` layers.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.diagnosis.arguments import is_floating
from pfn_optax.diagnosis.case import Case, DoesNotApply, Skip
from pfn_optax.propagation import log_slope
from pfn_optax.propagation.backward_taps import gradient_norm
from pfn_optax.propagation.tap_plan import plan_taps, run_taps
from pfn_optax.table import listed

_FEWEST_LAYERS = 6


class Tangents(NamedTuple):
    """Growth of a tangent.

    Attributes:
        exponent: nats per layer, relative to the signal.
        chaotic_depth: layers in which rounding grows to the size of the signal; infinite without
            growth.
        num_layers: that were measured.
    """

    exponent: float
    chaotic_depth: float
    num_layers: int


def measure_tangents(case: Case) -> Tangents:
    """Pushes a random tangent through the network; for `case.once`.

    Raises:
        DoesNotApply: if the data is of integers, or there are fewer than six layers.
        Skip: if fewer were recognised, the tangent is lost, or there is not the time or the memory.
    """
    params, batch = case.setup.params, case.setup.batch
    leaves, structure = jax.tree.flatten(batch)
    moving = [number for number, leaf in enumerate(leaves) if is_floating(leaf)]
    if not moving:
        raise DoesNotApply("the data is of integers, so it cannot be moved a little")
    try:
        plan = plan_taps(case.loss, params, batch)
    except ValueError as error:
        raise Skip(str(error)) from error
    if len(plan.layers) < _FEWEST_LAYERS:
        few = f"fewer than {_FEWEST_LAYERS} layers"
        if len(plan.layers) + len(plan.missed) < _FEWEST_LAYERS:
            raise DoesNotApply(few)
        raise Skip(f"{few} were recognised; not: {listed(list(plan.missed), 3)}")

    def growth(params: Any, leaves: list[Any], key: jax.Array) -> jax.Array:
        def preactivations(values: list[Any]) -> dict[str, jax.Array]:
            own = list(leaves)
            for number, value in zip(moving, values, strict=True):
                own[number] = value
            args = params, jax.tree.unflatten(structure, own)
            return run_taps(plan, args, lambda layer, given, pre, post: pre)[1]

        values = [leaves[number] for number in moving]
        keys = jax.random.split(key, len(values))
        directions = [
            jax.random.normal(one, value.shape, value.dtype)
            for one, value in zip(keys, values, strict=True)
        ]
        pres, tangents = jax.jvp(preactivations, (values,), (directions,))
        names = [layer.name for layer in plan.layers]
        pairs = [(gradient_norm(tangents[name]), gradient_norm(pres[name])) for name in names]
        return jnp.stack([jnp.stack(pair).astype(jnp.float32) for pair in pairs])

    args = params, leaves, case.key
    norms = np.asarray(case.budget.compile(growth, *args, what="a tangent")(*args), np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = norms[:, 0] / norms[:, 1]
    exponent = float(log_slope(jnp.asarray(ratios, jnp.float32)))
    if not np.isfinite(exponent):
        raise Skip("the tangent or the signal is 0 or not finite")
    epsilon = float(jnp.finfo(plan.layers[0].dtype).eps)
    depth = np.log(1 / epsilon) / exponent if exponent > 0 else np.inf
    return Tangents(exponent, float(depth), len(plan.layers))
