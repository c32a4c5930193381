"""The sizes that layers of Flax NNX hold as attributes, read off the shapes of their variables."""

from collections.abc import Callable
from typing import Any


def sizes_of(module: Any) -> dict[str, Any] | None:
    """Returns the attributes of a layer that hold sizes, as its variables have them.

    Args:
        module: an NNX module.

    Returns:
        Attributes and their values, none for a module without variables; None for a module that
        is not one of Flax.

    Example:
        >>> from flax import nnx
        >>> from pfn_optax.growth.sizes import sizes_of
        >>> layer = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
        >>> sizes_of(layer)
        {'in_features': 3, 'out_features': 4}
    """
    from flax import nnx

    for name, read in _LAYERS.items():
        kind = getattr(nnx, name, None)  # not every version of Flax has all
        if kind is not None and isinstance(module, kind):
            return {key: value for key, value in read(module).items() if hasattr(module, key)}
    return {} if type(module).__module__.startswith("flax.") else None


def _linear(layer: Any) -> dict[str, Any]:
    features = layer.kernel.shape
    return {"in_features": features[0], "out_features": features[1]}


def _linear_general(layer: Any) -> dict[str, Any]:
    first = len(layer.batch_axis)
    last = first + len(layer.in_features)
    shape = tuple(layer.kernel.shape)
    return {"in_features": shape[first:last], "out_features": shape[last:]}


def _einsum(layer: Any) -> dict[str, Any]:
    bias = None if layer.bias_shape is None else tuple(layer.bias.shape)
    return {"kernel_shape": tuple(layer.kernel.shape), "bias_shape": bias}


def _conv(layer: Any) -> dict[str, Any]:
    *_, per_group, features = shape = tuple(layer.kernel.shape)
    groups = layer.feature_group_count
    if groups > 1 and groups == layer.in_features:  # one group for each channel
        groups = features // (layer.out_features // layer.in_features)
    return {
        "kernel_shape": shape,
        "in_features": per_group * groups,
        "out_features": features,
        "feature_group_count": groups,
    }


def _conv_transpose(layer: Any) -> dict[str, Any]:
    shape = tuple(layer.kernel.shape)
    first, last = shape[-2:] if not layer.transpose_kernel else shape[:-3:-1]
    return {"kernel_shape": shape, "in_features": first, "out_features": last}


def _embed(layer: Any) -> dict[str, Any]:
    number, features = layer.embedding.shape
    return {"num_embeddings": number, "features": features}


def _norm(layer: Any) -> dict[str, Any]:
    for name in ("scale", "bias", "mean"):
        if getattr(layer, name, None) is not None:
            return {"num_features": getattr(layer, name).shape[0]}
    return {}


def _group_norm(layer: Any) -> dict[str, Any]:
    sizes = _norm(layer)
    if sizes.get("num_features", layer.num_features) != layer.num_features:
        raise ValueError("the channels of a GroupNorm are divided into groups: none can be added.")
    return {}


def _attention(layer: Any) -> dict[str, Any]:
    in_features, num_heads, head_dim = layer.query.kernel.shape
    return {
        "num_heads": num_heads,
        "num_kv_heads": layer.key.kernel.shape[1],
        "head_dim": head_dim,
        "qkv_features": num_heads * head_dim,
        "in_features": in_features,
        "in_kv_features": layer.key.kernel.shape[0],
        "out_features": layer.out.kernel.shape[-1],
    }


def _cell(gate: str, num_gates: int) -> Callable[[Any], dict[str, Any]]:
    def sizes(layer: Any) -> dict[str, Any]:
        in_features, features = getattr(layer, gate).kernel.shape
        return {"in_features": in_features, "hidden_features": features // num_gates}

    return sizes


def _lora(layer: Any) -> dict[str, Any]:
    return {"in_features": layer.lora_a.shape[0], "out_features": layer.lora_b.shape[1]}


_LAYERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "Linear": _linear,
    "LinearGeneral": _linear_general,
    "Einsum": _einsum,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Embed": _embed,
    "BatchNorm": _norm,
    "LayerNorm": _norm,
    "RMSNorm": _norm,
    "InstanceNorm": _norm,
    "GroupNorm": _group_norm,
    "MultiHeadAttention": _attention,
    "LSTMCell": _cell("ii", 1),
    "OptimizedLSTMCell": _cell("dense_i", 4),
    "SimpleCell": _cell("dense_i", 1),
    "GRUCell": _cell("dense_i", 3),
    "LoRA": _lora,
}
