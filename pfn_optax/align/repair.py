"""REPAIR: give the units of a merged model the statistics they have in the models."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from pfn_optax.align.batch_norm import with_leaves
from pfn_optax.align.channels import Layer, Sites, by_depth
from pfn_optax.align.interpolation import normalised, require_alike
from pfn_optax.align.moments import Moments, measure, sites_on
from pfn_optax.paths import named_leaves
from pfn_optax.units import UnitSpec


def repair(
    function: Callable[..., Any],
    params: Any,
    models: Sequence[Any],
    batches: Iterable[Any],
    spec: UnitSpec,
    *,
    weights: Any = None,
) -> Any:
    """Returns a merged model whose units have the mean and deviation that the models give them.

    The units of a mean of models vary less than those of the models, more so with every layer.
    For each layer, from the data on, with the statistics of its outputs before the activation:

        mean_target = sum_i w_i mean_i,   deviation_target = sum_i w_i deviation_i,
        kernel <- kernel s,   bias <- (bias - mean_now) s + mean_target,
        s = deviation_target / deviation_now.

    After it the statistics of all hidden layers over the batches are the targets. A unit that is
    constant in the merged model stays constant and only gets its mean. Layers whose outputs are no
    hidden units (the logits) stay as they are.

    Args:
        function: `function(params, *batch)`, in evaluation mode. Compiled once for each function
            object: pass the same one again, not a new lambda.
        params: the merged model, as of `merge` or `interpolate`.
        models: the models it was merged from, aligned.
        batches: tuples of arrays, the arguments of the function after the parameters; a list, or
            anything that can be read again and again: once for each model and for each hidden layer
            on the longest way through the model.
        spec: the hidden units, of `unit_spec`.
        weights: f32[num_models], as of `merge`: (1 - t, t) on the line between two models.

    Returns:
        A tree like params.

    Raises:
        ValueError: if a group of units is made by no dense layer or convolution with a bias, if one
            of those is used several times, if the trees are not of the same model, if there is no
            batch, or values are not finite.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pfn_optax.align import merge, repair
        >>> from pfn_optax.units import unit_spec
        >>> def predict(params, x):
        ...     return jax.nn.relu(x @ params["kernel"] + params["bias"]) @ params["head"]
        >>> a = {"kernel": jnp.ones((1, 2)), "bias": jnp.zeros(2), "head": jnp.ones((2, 1))}
        >>> b = a | {"kernel": -jnp.ones((1, 2)), "bias": jnp.asarray([4.0, 2.0])}
        >>> x = jnp.asarray([[1.0], [3.0]])
        >>> merged = merge([a, b], weights=[3, 1])
        >>> spec = unit_spec(predict, a, x)
        >>> repaired = repair(predict, merged, [a, b], [(x,)], spec, weights=[3, 1])
        >>> hidden = x @ repaired["kernel"] + repaired["bias"]
        >>> hidden.mean(0).tolist(), hidden.std(0).tolist()
        ([2.0, 1.5], [1.0, 1.0])

    Reference:
        Jordan, Sedghi, Saukh, Entezari, Neyshabur, "REPAIR: REnormalizing Permuted Activations for
        Interpolation Repair", ICLR 2023 (there by batch norms inserted and folded in afterwards).
    """
    if not models:
        raise ValueError("models must hold the models that params were merged from.")
    require_alike([params, *models])
    shares = np.asarray(normalised(weights, len(models)))
    layers = _layers(sites_on(function, params, batches), spec)
    measured = [measure(function, model, batches) for model in models]

    def mixed(numbers: list[np.ndarray]) -> np.ndarray:
        return sum((w * x for w, x in zip(shares, numbers, strict=True)), np.zeros(()))

    for level in by_depth(layers):
        now = measure(function, params, batches)
        for layer in level:
            own = [moments[layer.name] for moments in measured]
            mean = mixed([moments.mean for moments in own])
            deviation = mixed([moments.deviation for moments in own])
            params = _corrected(params, layer, now[layer.name], mean, deviation)
    return params


def _layers(found: Sites, spec: UnitSpec) -> list[Layer]:
    """The layers that make hidden units, each of which can be corrected by itself."""
    groups = {member.path: group.name for group in spec.groups for member in group.members}
    layers = [layer for layer in found.layers if layer.bias in groups]
    made = {groups[layer.bias] for layer in layers}
    for group in spec.groups:
        if group.name not in made:
            raise ValueError(
                f"the units of group {group.name!r} cannot be repaired: they are made by no dense "
                "layer or convolution with a bias. With batch norm: reestimate_batch_stats()."
            )
    for layer in layers:
        for path in (layer.kernel, layer.bias):
            if found.uses[path] > 1:
                raise ValueError(
                    f"{'/'.join(path)!r} is used {found.uses[path]} times: no correction of it "
                    "suits all of its uses."
                )
    return layers


def _corrected(
    params: Any, layer: Layer, now: Moments, mean: np.ndarray, deviation: np.ndarray
) -> Any:
    leaves = dict(named_leaves(params))
    kernel = np.asarray(leaves[layer.kernel], np.float64)
    bias = np.asarray(leaves[layer.bias], np.float64).ravel()
    # What is left of a constant in float32 is rounding, not a deviation to be scaled up.
    is_constant = now.deviation <= 8 * np.finfo(np.float32).eps * np.abs(now.mean)
    scale = np.where(is_constant, 1.0, deviation / np.where(is_constant, 1.0, now.deviation))
    shape = [1] * kernel.ndim
    shape[layer.kernel_axis] = -1
    return with_leaves(
        params,
        {
            layer.kernel: kernel * scale.reshape(shape),
            layer.bias: (bias - now.mean) * scale + mean,
        },
    )
