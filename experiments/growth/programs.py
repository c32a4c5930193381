"""Compiled training of ensembles of padded networks: one program for all widths and arms."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.growth.images import Images
from experiments.growth.observers import options_of
from experiments.mlp import Params, init, logits
from pfn_optax import pfn, with_pfn
from pfn_optax.growth import Kind, only_active, pad, state_kinds, widths
from pfn_optax.units import UnitSpec, unit_spec

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Recipe:
    """What makes a program: how to train, and what to watch.

    Attributes:
        padded: inputs, the most units that each hidden layer may reach, outputs.
        mode: capacity by which PFN watches.
        every: steps from one diagnosis to the next.
        learning_rate: of Adam.
        batch_size: images in a batch.
        amplified_by: capacity by which `with_pfn` amplifies, if it does; its other options are the
            defaults, so the network must not be padded.
    """

    padded: Sizes
    mode: str = "norm"
    every: int = 50
    learning_rate: float = 1e-3
    batch_size: int = 64
    amplified_by: str | None = None

    @functools.cached_property
    def spec(self) -> UnitSpec:
        """The padded groups, one per hidden layer, by the name of the layer."""
        return spec_of(self.padded)

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformationExtraArgs:
        """What trains."""
        inner = optax.adam(self.learning_rate)
        if self.amplified_by is not None:
            inner = with_pfn(inner, capacity=self.amplified_by, every=self.every)
        return only_active(inner, self.spec)

    @functools.cached_property
    def optimizer_on_host(self) -> optax.GradientTransformationExtraArgs:
        """The same for `grow`, which asks for initial states again and again: quick zeros."""
        return optax.GradientTransformationExtraArgs(
            _zero_state(self.optimizer), self.optimizer.update
        )

    @functools.cached_property
    def observer(self) -> optax.GradientTransformationExtraArgs:
        """What watches, and changes nothing."""
        watch = pfn(**options_of(self.mode), beta=0.0, every=self.every)
        return only_active(watch, self.spec)

    @property
    def kinds(self) -> Mapping[str, Kind]:
        """What Adam's state is made of; with `with_pfn` networks do not grow."""
        return _kinds(len(self.padded))


@functools.cache
def spec_of(sizes: Sizes) -> UnitSpec:
    """The groups of a network of these sizes: its hidden layers."""
    shapes = jax.eval_shape(functools.partial(init, sizes=sizes), jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    return unit_spec(logits, zeros, jnp.zeros((1, sizes[0])))


def groups_of(sizes: Sizes) -> tuple[str, ...]:
    """Names of the groups that can grow, from the data to the outputs."""
    return tuple(f"Dense_{number}" for number in range(len(sizes) - 2))


def padding_of(padded: Sizes) -> dict[str, int]:
    """Padded size of each group."""
    return dict(zip(groups_of(padded), padded[1:-1], strict=True))


@functools.cache
def _kinds(num_sizes: int) -> Mapping[str, Kind]:
    return state_kinds(optax.adam(1e-3), init(jax.random.key(0), (2,) * num_sizes))


def _zero_state(optimizer: optax.GradientTransformation) -> optax.TransformInitFn:
    """The initial state of an optimizer that starts from zeros, without work for the device."""
    found: dict[Any, Any] = {}

    def zeros(params: optax.Params) -> Any:
        shapes = jax.tree.structure(params), tuple(map(np.shape, jax.tree.leaves(params)))
        if shapes not in found:
            found[shapes] = jax.tree.map(
                lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape),
                jax.eval_shape(optimizer.init, params),
            )
        return found[shapes]

    return zeros


class Ensemble(NamedTuple):
    """Networks of one padded size, each with its own widths; the leaves have an axis of networks.

    Attributes:
        params: padded parameters, f32[num_networks, ...].
        state: of the optimizer.
        seen: of PFN, which watches.
        specs: the active units of each network.
    """

    params: Any
    state: Any
    seen: Any
    specs: tuple[UnitSpec, ...]

    @property
    def widths(self) -> list[dict[str, int]]:
        """Active units of each group, of each network."""
        return [widths(spec) for spec in self.specs]

    def on_host(self) -> "Ensemble":
        """The same with arrays of NumPy, to take single networks from."""
        params, state, seen = jax.device_get((self.params, self.state, self.seen))
        return Ensemble(params, state, seen, self.specs)


def started(recipe: Recipe, networks: Sequence[Params]) -> Ensemble:
    """Pads networks to the sizes of a recipe, each of its own widths.

    Args:
        recipe: how they will be trained.
        networks: their parameters.

    Returns:
        The ensemble before its first step.
    """
    specs = tuple(spec_of(sizes_of(params)) for params in networks)
    padded = [
        pad(params, spec, padding_of(recipe.padded)).params
        for params, spec in zip(networks, specs, strict=True)
    ]
    params = stacked(padded)
    return Ensemble(
        params,
        jax.vmap(recipe.optimizer.init)(params),
        jax.vmap(recipe.observer.init)(params),
        specs,
    )


def sizes_of(params: Params) -> Sizes:
    """Inputs, hidden units of each layer and outputs."""
    kernels = [layer["kernel"] for layer in params.values()]
    return (kernels[0].shape[0], *(kernel.shape[1] for kernel in kernels))


def stacked(trees: Sequence[Any]) -> Any:
    """One tree, with an axis of trees in front."""
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *trees)


def train(
    recipe: Recipe,
    ensemble: Ensemble,
    seeds: Sequence[int],
    step: int,
    num_steps: int,
    data: Images,
) -> tuple[Ensemble, np.ndarray]:
    """Takes steps of training; a seed sets the batches, whatever the widths.

    Args:
        recipe: how.
        ensemble: what.
        seeds: of the batches of each network.
        step: number of the first step.
        num_steps: how many; each number is a program.
        data: the images.

    Returns:
        The ensemble, and the losses in nats, f32[num_networks, num_steps].
    """
    active = {
        name: jnp.asarray([own[name] for own in ensemble.widths])
        for name in groups_of(recipe.padded)
    }
    carry = ensemble.params, ensemble.state, ensemble.seen
    carry, losses = _train(recipe, num_steps, carry, active, jnp.asarray(seeds), step, data)
    params, state, seen = carry
    return Ensemble(params, state, seen, ensemble.specs), np.asarray(losses)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _train(
    recipe: Recipe,
    num_steps: int,
    carry: tuple[Any, Any, Any],
    active: Mapping[str, jax.Array],
    seeds: jax.Array,
    first: jax.Array | int,
    data: Images,
) -> tuple[tuple[Any, Any, Any], jax.Array]:
    def network(carry, active, seed):
        def step(carry, number):
            params, state, seen = carry
            batch = batch_of(seed, number, recipe.batch_size, data)
            loss, gradient = jax.value_and_grad(cross_entropy)(params, *batch)
            # Two transformations, since growth must not follow what PFN has seen of the padding.
            _, seen = recipe.observer.update(gradient, seen, params, active_units=active)
            updates, state = recipe.optimizer.update(gradient, state, params, active_units=active)
            return (optax.apply_updates(params, updates), state, seen), loss

        return jax.lax.scan(step, carry, first + jnp.arange(num_steps))

    return jax.vmap(network)(carry, active, seeds)


def batch_of(
    seed: jax.Array | int, step: jax.Array | int, size: int, data: Images
) -> tuple[jax.Array, jax.Array]:
    """The batch of a step: images drawn with replacement, and their labels."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    chosen = jax.random.randint(key, (size,), 0, len(data.train_labels))
    return data.train[chosen], data.train_labels[chosen]


def cross_entropy(params: Params, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean loss of a batch in nats, f32[]."""
    found = logits(params, images)
    return optax.softmax_cross_entropy_with_integer_labels(found, labels).mean()


@jax.jit
def accuracies(params: Any, data: Images) -> jax.Array:
    """Share of the test images that each network tells right, f32[num_networks]."""

    def of_one(params):
        return (logits(params, data.test).argmax(-1) == data.test_labels).mean()

    return jax.lax.map(of_one, params)
