"""Gradients, parameters and updates over depth during training: a transformation that looks."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pfn_optax.propagation.gradients import (
    first_nonfinite,
    gradient_profile,
    log_slope,
    real_layers,
)
from pfn_optax.propagation.rank import activation_rank, as_matrix
from pfn_optax.propagation.ring import require_ring, write
from pfn_optax.when import when

_NUM_ITERATIONS = 16


class PropagationMonitorState(NamedTuple):
    """State of `propagation_monitor`; records are in a ring, the n-th in row n modulo `capacity`.

    Attributes:
        propagation_step: i32[], steps so far.
        propagation_records: i32[], records so far.
        propagation_steps: i32[capacity], the step of each record; 0 where there is none yet.
        propagation_gradient_norm: f32[capacity, num_layers].
        propagation_parameter_norm: f32[capacity, num_layers].
        propagation_update_ratio: f32[capacity, num_layers], norm of the updates over that of the
            parameters.
        propagation_slope: f32[capacity], `log_slope` of the gradient norms, in nats per layer.
        propagation_nonfinite_leaf: i32[], the first leaf, by its number in `leaf_names`, of the
            gradients that was not finite; -1 as long as all are.
        propagation_nonfinite_step: i32[], the step at which it was so; -1.
        propagation_weight_rank: f32[capacity, num_layers], rank in the sense of two norms of the
            largest matrix of the layer, NaN without one; () without `weights`.
        propagation_spectral_norm: f32[capacity, num_layers], estimate from below of its largest
            singular value; () without `weights`.
    """

    propagation_step: jax.Array
    propagation_records: jax.Array
    propagation_steps: jax.Array
    propagation_gradient_norm: jax.Array
    propagation_parameter_norm: jax.Array
    propagation_update_ratio: jax.Array
    propagation_slope: jax.Array
    propagation_nonfinite_leaf: jax.Array
    propagation_nonfinite_step: jax.Array
    propagation_weight_rank: Any = ()
    propagation_spectral_norm: Any = ()


def propagation_monitor(
    *,
    every: int = 50,
    capacity: int = 200,
    order: Sequence[str] | None = None,
    weights: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Records norms over depth every some steps, and passes the updates through.

    What it sees depends on its place. Last in a chain it sees the updates, so that their ratio to
    the parameters is what training does; pass it the gradients too, `update(grads, state, params,
    grad=grads)`, as optax's line searches have them. Without `grad`, what it sees is taken for the
    gradients: first in a chain that is right, and the ratio is that of the gradients.

    Whether all gradients are finite is looked at in every step, and everything else in every
    `every`-th; under `vmap` too. Read the state by name (`optax.tree.get(state,
    "propagation_slope")`) or on the host by `propagation_history`.

    Args:
        every: steps between records; the first is at step `every`.
        capacity: how many records are kept, the last ones.
        order: names of layers from the data to the loss, as `activation_taps(...).names` or
            `layer_names`; by default the latter, which is their depth where layers are numbered.
        weights: whether to record ranks and spectral norms of the weights too, at the cost of a
            matrix product with itself of each.

    Returns:
        A transformation with state `PropagationMonitorState`.

    Raises:
        ValueError: from here, if `every` or `capacity` is not positive; from `init`, if `order`
            names an unknown layer, or no leaf is real; from `update`, if there are no `params`.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from pfn_optax.propagation import propagation_monitor
        >>> optimizer = optax.chain(optax.sgd(0.5), propagation_monitor(every=1))
        >>> params = {"Dense_0": {"kernel": jnp.eye(2)}, "Dense_1": {"kernel": jnp.eye(2)}}
        >>> grads = {"Dense_0": {"kernel": jnp.eye(2)}, "Dense_1": {"kernel": 4 * jnp.eye(2)}}
        >>> updates, state = optimizer.update(grads, optimizer.init(params), params, grad=grads)
        >>> print(optax.tree.get(state, "propagation_update_ratio")[0])
        [0.5 2. ]
        >>> print(optax.tree.get(state, "propagation_slope")[0].round(4))  # ln 4: they vanish
        1.3863
    """
    require_ring(every, capacity)

    def init(params):
        num_layers = 0
        if jax.tree.leaves(params):  # none in the placeholder of `optax.tree.map_params`
            profile = jax.eval_shape(lambda tree: gradient_profile(tree, layers=order), params)
            num_layers = profile.size

        def rows():  # a buffer for each, so that the state can be donated
            return jnp.zeros((capacity, num_layers), jnp.float32)

        return PropagationMonitorState(
            propagation_step=jnp.zeros((), jnp.int32),
            propagation_records=jnp.zeros((), jnp.int32),
            propagation_steps=jnp.zeros(capacity, jnp.int32),
            propagation_gradient_norm=rows(),
            propagation_parameter_norm=rows(),
            propagation_update_ratio=rows(),
            propagation_slope=jnp.zeros(capacity, jnp.float32),
            propagation_nonfinite_leaf=jnp.full((), -1, jnp.int32),
            propagation_nonfinite_step=jnp.full((), -1, jnp.int32),
            propagation_weight_rank=rows() if weights else (),
            propagation_spectral_norm=rows() if weights else (),
        )

    def record(seen, state):
        updates, gradients, params = seen
        gradient_norm, update_norm, parameter_norm = (
            gradient_profile(tree, layers=order) for tree in (gradients, updates, params)
        )
        found = {
            "gradient_norm": gradient_norm,
            "parameter_norm": parameter_norm,
            "update_ratio": _ratio(update_norm, parameter_norm),
            "slope": log_slope(gradient_norm),
            "steps": state.propagation_step,
        }
        if weights:
            measured = weight_measures(params, order)
            found |= {"weight_rank": measured[0], "spectral_norm": measured[1]}
        rings = {
            f"propagation_{name}": write(
                getattr(state, f"propagation_{name}"), state.propagation_records, value
            )
            for name, value in found.items()
        }
        return state._replace(propagation_records=state.propagation_records + 1, **rings)

    def update(updates, state, params=None, **extra_args):
        if params is None:
            raise ValueError(
                "propagation_monitor needs the parameters: update(updates, state, params)."
            )
        gradients = extra_args.get("grad")
        gradients = updates if gradients is None else gradients
        step = jnp.asarray(optax.safe_increment(state.propagation_step))
        broken = first_nonfinite(gradients)
        is_first = ~broken.is_finite & (state.propagation_nonfinite_leaf < 0)
        state = state._replace(
            propagation_step=step,
            propagation_nonfinite_leaf=jnp.where(
                is_first, broken.index, state.propagation_nonfinite_leaf
            ),
            propagation_nonfinite_step=jnp.where(is_first, step, state.propagation_nonfinite_step),
        )
        # What is recorded is not differentiated.
        seen, state = jax.lax.stop_gradient(((updates, gradients, params), state))
        return updates, when(step % every == 0, record, seen, state)

    return optax.GradientTransformationExtraArgs(init, update)


def _ratio(change: jax.Array, size: jax.Array) -> jax.Array:
    """As `update_ratios`: 0 if there is no change, infinite if only there was nothing before."""
    ratio = change / jnp.where(size == 0, 1.0, size)
    return jnp.where((size == 0) & (change > 0), jnp.inf, ratio)


def weight_measures(params: Any, order: Sequence[str] | None) -> tuple[jax.Array, jax.Array]:
    """Rank and spectral norm of the largest matrix of each layer, f32[num_layers] each."""
    ranks, norms = [], []
    layers = real_layers(params)
    for name in layers if order is None else order:
        matrices = [leaf for leaf in layers[name] if jnp.ndim(leaf) > 1 and jnp.size(leaf)]
        if not matrices:
            matrices = [jnp.full((1, 1), jnp.nan)]
        matrix = as_matrix(max(matrices, key=jnp.size))
        ranks.append(activation_rank(matrix).astype(jnp.float32))
        norms.append(spectral_norm(matrix).astype(jnp.float32))
    return jnp.stack(ranks), jnp.stack(norms)


def spectral_norm(matrix: jax.Array) -> jax.Array:
    """The largest singular value by power iteration from one fixed vector; never above it."""
    vector = jax.random.normal(jax.random.key(0), matrix.shape[1:], matrix.dtype)

    def step(_, vector):
        vector = matrix.T @ (matrix @ (vector / jnp.linalg.norm(vector)))
        return jnp.where(jnp.any(vector != 0), vector, jnp.ones_like(vector))

    vector = jax.lax.fori_loop(0, _NUM_ITERATIONS, step, vector)
    return jnp.linalg.norm(matrix @ (vector / jnp.linalg.norm(vector)))
