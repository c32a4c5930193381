"""A recipe: data, a network, a loss and an optimizer, made into a setup."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import nnx

from experiments.diagnose.data import Batch, Source
from pfn_optax.diagnosis import TrainingSetup

Params = Any
Apply = Callable[[Params, jax.Array], jax.Array]
Network = Callable[[int, jax.Array], tuple[Params, Apply]]
"""Of a seed and inputs, the initial parameters and what maps them and inputs to logits."""
Loss = Callable[[jax.Array, jax.Array], jax.Array]
"""Of logits and labels."""
Edit = Callable[[Params], Params]

_UNOPTIMISED: dict[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean over the examples, nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def linen(module: nn.Module) -> Network:
    """A Linen module; batch norm goes by the batch's own moments, as in training."""

    def build(seed: int, inputs: jax.Array) -> tuple[Params, Apply]:
        key = jax.random.key(seed)
        # Run once: what optimising the program takes is more than it saves.
        compiled = jax.jit(module.init).lower(key, inputs).compile(_UNOPTIMISED)
        variables = compiled(key, inputs)
        others = {name: value for name, value in variables.items() if name != "params"}

        def apply(params: Params, inputs: jax.Array) -> jax.Array:
            outputs, _ = module.apply({"params": params, **others}, inputs, mutable=list(others))
            return outputs  # pyright: ignore[reportReturnType]

        return variables["params"], apply

    return build


def nnx_split(build: Callable[[nnx.Rngs], Callable]) -> Network:
    """An NNX module, its parameters as an `nnx.State`."""

    def split(seed: int, inputs: jax.Array) -> tuple[Params, Apply]:
        del inputs
        graph, params, others = nnx.split(build(nnx.Rngs(seed)), nnx.Param, ...)

        def apply(params: Params, inputs: jax.Array) -> jax.Array:
            # A copy: batch norm writes its running moments, which nobody reads here.
            return nnx.merge(graph, params, others, copy=True)(inputs)

        return params, apply

    return split


def nnx_module(build: Callable[[nnx.Rngs], Callable]) -> Network:
    """An NNX module as it is, its own parameters."""
    return lambda seed, inputs: (build(nnx.Rngs(seed)), lambda module, inputs: module(inputs))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is trained, and how.

    Attributes:
        data: where batches come from.
        network: the network.
        optimizer: what trains it.
        loss: of its logits and the labels.
        edit: a change of the initial parameters.
        trained: training steps before the diagnosis.
        has_aux: whether the loss function returns its logits too.
        hides_model: whether `diagnose` is given the loss alone.
    """

    data: Source
    network: Network
    optimizer: optax.GradientTransformation
    loss: Loss = cross_entropy
    edit: Edit = lambda params: params
    trained: int = 0
    has_aux: bool = False
    hides_model: bool = False

    def build(self, seed: int) -> tuple[TrainingSetup, Callable[[int], Batch]]:
        """The setup at its first step, without the training before it, and its batches."""
        batches = self.data(seed)
        first = batches(0)
        params, apply = self.network(seed, jnp.asarray(first["inputs"]))

        def model(params: Params, batch: Batch) -> jax.Array:
            return apply(params, jnp.asarray(batch["inputs"]))

        def loss(params: Params, batch: Batch) -> Any:
            logits = model(params, batch)
            value = self.loss(logits, jnp.asarray(batch["labels"]))
            return (value, logits) if self.has_aux else value

        setup = TrainingSetup(
            loss,
            self.edit(params),
            jax.tree.map(jnp.asarray, first),
            model=None if self.hides_model else model,
            optimizer=self.optimizer,
            has_aux=self.has_aux,
        )
        return setup, batches
