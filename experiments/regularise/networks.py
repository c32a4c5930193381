"""The networks, and what the arms add to their loss."""

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import optax

from experiments import mlp
from experiments.mlp import Params, logits
from pfn_optax import FlowGraph, flow_value, unit_graph
from pfn_optax.capacity import effective_rank

Start = Literal["low rank", "crossed", "healthy"]
Arm = Literal["plain", "weight decay", "smallest rank", "flow"]
STARTS: tuple[Start, ...] = get_args(Start)
ARMS: tuple[Arm, ...] = get_args(Arm)

SIZES = (64, 64, 64, 64, 10)
HALF, STARVED = 32, 0.03  # units that a layer starves, and to which share of their weights
CHUNK = 16  # hidden units in a block of the flow graph


def init(start: Start, seed: jax.Array) -> Params:
    """Draws parameters by He's rule, and then spoils them.

    Args:
        start: `"low rank"` makes a middle layer one of rank one and the same norm; `"crossed"`
            starves the second half of the units going into them and the first half going out, so
            that no layer is of low rank, but little gets through the two; `"healthy"` is as drawn.
        seed: i32[].

    Returns:
        A kernel and a bias per layer.
    """
    params = mlp.init(jax.random.key(seed), SIZES)
    middle, after = params["Dense_1"], params["Dense_2"]
    if start == "low rank":
        kernel = middle["kernel"]
        low = jnp.outer(kernel[:, 0], kernel[0])
        middle["kernel"] = low * (jnp.linalg.norm(kernel) / jnp.linalg.norm(low))
    elif start == "crossed":
        middle["kernel"] = middle["kernel"].at[:, HALF:].multiply(STARVED)
        after["kernel"] = after["kernel"].at[:HALF].multiply(STARVED)
    return params


def cross_entropy(params: Params, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross entropy in nats, f32[]."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits(params, images), labels)
    return losses.mean()


@functools.cache
def graph() -> FlowGraph:
    """The units' flow graph, traced. On a chain of layers the flow is the smallest rank itself."""
    params = jax.eval_shape(functools.partial(init, "healthy"), 0)
    batch = jax.ShapeDtypeStruct((2, SIZES[0]), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.int32)
    return unit_graph(cross_entropy, params, *batch, block_size=CHUNK)


def flow(params: Params) -> jax.Array:
    """Maximum flow through the units, in directions, f32[]."""
    return flow_value(params, graph=graph(), capacity="effective_rank")


def smallest_rank(params: Params) -> jax.Array:
    """Effective rank of the layer where it is smallest, f32[]."""
    return jnp.stack([effective_rank(layer["kernel"]) for layer in params.values()]).min()


def penalty(arm: Arm, params: Params) -> jax.Array:
    """What an arm adds to the loss, before its strength, f32[]."""
    match arm:
        case "plain":
            return jnp.zeros(())
        case "weight decay":
            return sum((jnp.sum(p["kernel"] ** 2) / 2 for p in params.values()), jnp.zeros(()))
        case "smallest rank":
            return -jnp.log(smallest_rank(params))
        case "flow":
            return -jnp.log(flow(params))
