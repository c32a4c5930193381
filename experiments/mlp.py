"""A ReLU network of dense layers, its parameters in a plain dictionary."""

import jax
import jax.numpy as jnp

Params = dict[str, dict[str, jax.Array]]


def init(key: jax.Array, sizes: tuple[int, ...]) -> Params:
    """Draws parameters by He's rule.

    Args:
        key: random key.
        sizes: inputs, hidden units of each layer, outputs.

    Returns:
        A kernel and a bias per layer.
    """
    params = {}
    for index, own in enumerate(jax.random.split(key, len(sizes) - 1)):
        fan_in, fan_out = sizes[index : index + 2]
        kernel = jax.random.normal(own, (fan_in, fan_out)) * (2 / fan_in) ** 0.5
        params[f"Dense_{index}"] = {"kernel": kernel, "bias": jnp.zeros(fan_out)}
    return params


def logits(params: Params, inputs: jax.Array) -> jax.Array:
    """Maps f32[batch, num_inputs] to f32[batch, num_outputs]; ReLU between the layers."""
    *hidden, head = params.values()
    for layer in hidden:
        inputs = jax.nn.relu(inputs @ layer["kernel"] + layer["bias"])
    return inputs @ head["kernel"] + head["bias"]
