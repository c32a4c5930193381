"""What a model of the zoo is, and how Linen and NNX modules are made into one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import nnx

Make = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """A model, its input and a loss to train it with.

    Attributes:
        name: what it is.
        params: its parameters, a pytree.
        args: what `apply` and `loss` take after the parameters; the labels last.
        apply: (params, *args) to its output; it ignores the labels.
        loss: (params, *args) to a scalar.
    """

    name: str
    params: Any
    args: tuple[Any, ...]
    apply: Callable[..., jax.Array]
    loss: Callable[..., jax.Array]


def concrete(function: Callable[..., Any], *args: Any) -> Any:
    """Makes arrays; its counterpart that makes shapes only is `jax.eval_shape`."""
    # This generator compiles several times faster than the default one.
    with jax.default_prng_impl("rbg"):
        return jax.jit(function)(*args)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.square(outputs - targets).mean()


def vectors(make: Make, *shape: int) -> Any:
    return make(lambda: jax.random.normal(jax.random.key(1), shape))


def integers(make: Make, stop: int, *shape: int) -> Any:
    return make(lambda: jax.random.randint(jax.random.key(2), shape, 0, stop))


def plain_case(
    name: str,
    params: Any,
    apply: Callable[[Any, Any], jax.Array],
    inputs: Any,
    labels: Any,
    criterion: Callable[..., jax.Array] = cross_entropy,
) -> Case:
    """A case from a function of parameters and inputs."""
    return Case(
        name,
        params,
        (inputs, labels),
        lambda params, inputs, labels: apply(params, inputs),
        lambda params, inputs, labels: criterion(apply(params, inputs), labels),
    )


def linen_case(
    name: str,
    module: nn.Module,
    inputs: Any,
    labels: Any,
    *,
    make: Make,
    criterion: Callable[..., jax.Array] = cross_entropy,
) -> Case:
    """A case from a Linen module; its batch statistics, if any, are the first argument."""
    params, rest = make(lambda inputs: _split(dict(module.init(jax.random.key(0), inputs))), inputs)

    def apply(params, *args):
        *rest, inputs, _ = args
        return module.apply({"params": params, **(rest[0] if rest else {})}, inputs)

    return _case(name, params, rest, inputs, labels, apply, criterion)


def nnx_case(
    name: str,
    build: Callable[[], nnx.Module],
    inputs: Any,
    labels: Any,
    *,
    make: Make,
    criterion: Callable[..., jax.Array] = cross_entropy,
) -> Case:
    """A case from a builder of an NNX module; its other state, if any, is the first argument."""
    graphdef = nnx.split(nnx.eval_shape(build), nnx.Param, ...)[0]
    params, rest = make(lambda: nnx.split(build(), nnx.Param, ...)[1:])

    def apply(params, *args):
        *given, inputs, _ = args
        return nnx.merge(graphdef, params, *(given or [rest]))(inputs)

    return _case(name, params, rest, inputs, labels, apply, criterion)


def _split(variables: dict) -> tuple[Any, dict]:
    return variables.pop("params"), variables


def _case(name, params, rest, inputs, labels, apply, criterion) -> Case:
    def loss(params, *args):
        return criterion(apply(params, *args), args[-1])

    args = (inputs, labels) if not jax.tree.leaves(rest) else (rest, inputs, labels)
    return Case(name, params, args, apply, loss)
