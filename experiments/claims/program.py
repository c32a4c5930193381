"""One training step in two halves, between which the cut is found: the program of all arms.

gradient -> (the diagnosis of `pfn`, multipliers as factors of the leaves) -> move

Factors stand before and behind the optimizer, and are one where an arm has none, so that the arms
of an optimizer share what is compiled. That this is `optax.chain(pfn(...), optimizer)` and
`with_pfn(optimizer, ...)` is tested.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.claims.lanes import over_lanes
from experiments.claims.optimizers import unit_rate
from experiments.claims.setting import Setting
from pfn_optax.paths import named_leaves

PADDING = 4  # pixels, of the random crops


class Lanes(NamedTuple):
    """What training changes, each with a leading axis of runs.

    Attributes:
        params: Parameters.
        rest: Other variables of the network.
        opt_state: State of the optimizer.
    """

    params: Any
    rest: Any
    opt_state: Any


class Factors(NamedTuple):
    """What the leaves are multiplied by, each with a leading axis of runs.

    Attributes:
        before: Factors of the gradients, a tree like the parameters.
        behind: Factors of the updates.
        restores_norm: `bool[num_lanes]`, whether the norm before the scaling is restored.
    """

    before: Any
    behind: Any
    restores_norm: jax.Array


class Program:
    """Compiled halves of a step, for one network and optimizer."""

    def __init__(self, setting: Setting, optimizer: str, num_lanes: int):
        """Make the functions; they are compiled when they are first called.

        Args:
            setting: Network and images.
            optimizer: Name for `unit_rate`.
            num_lanes: Runs side by side.
        """
        self.setting = setting
        self.optimizer = unit_rate(optimizer, steps=setting.protocol.steps)
        data = setting.dataset
        self._images, self._labels = jax.device_put((data.train_images, data.train_labels))
        self._gradient = over_lanes(self._gradient_of_one, num_lanes, shared=2)
        self.move = over_lanes(self._move_one, num_lanes)
        self._init_optimizer = over_lanes(self.optimizer.init, num_lanes)

    def init(self, seeds: tuple[int, ...]) -> Lanes:
        """The state before training, by seed."""
        made = [self.setting.network.init(jax.random.key(seed, impl="rbg")) for seed in seeds]
        params, rest = jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)
        return Lanes(params, rest, self._init_optimizer(params))

    def gradient(self, lanes: Lanes, batch: "Batch") -> tuple[Any, Lanes, jax.Array]:
        """Gradients of the batches, the state with their statistics, and their losses."""
        grads, rest, loss = self._gradient(
            self._images, self._labels, lanes.params, lanes.rest, *batch
        )
        return grads, lanes._replace(rest=rest), loss

    def _gradient_of_one(self, images, labels, params, rest, chosen, corners, mirrored):
        x, y = images[chosen], labels[chosen]
        if self.setting.protocol.augment:
            x = jax.vmap(_augmented)(x, corners, mirrored)
        value_and_grad = jax.value_and_grad(self.setting.network.loss, has_aux=True)
        (loss, (rest, _)), grads = value_and_grad(params, rest, x, y)
        return grads, rest, loss

    def _move_one(self, grads, lanes: Lanes, factors: Factors, rate):
        grads = _scaled(grads, factors.before, factors.restores_norm)
        updates, opt_state = self.optimizer.update(grads, lanes.opt_state, lanes.params)
        updates = _scaled(updates, factors.behind, factors.restores_norm)
        updates = jax.tree.map(lambda leaf: rate * leaf, updates)
        relative = jnp.stack(
            [
                jnp.linalg.norm(update) / jnp.maximum(jnp.linalg.norm(param), 1e-30)
                for (_, param), (_, update) in zip(
                    named_leaves(lanes.params), named_leaves(updates), strict=True
                )
                if param.ndim > 1
            ]
        )
        moved = Lanes(optax.apply_updates(lanes.params, updates), lanes.rest, opt_state)
        return moved, relative


def matrices(params: Any) -> list[str]:
    """Names of the layers, in the order of the relative updates that `move` returns."""
    return ["/".join(path[:-1]) for path, leaf in named_leaves(params) if np.ndim(leaf) > 1]


class Batch(NamedTuple):
    """A batch for each lane.

    Attributes:
        chosen: `i32[num_lanes, batch]`, indices of training images.
        corners: `i32[num_lanes, batch, 2]`, of the random crops.
        mirrored: `bool[num_lanes, batch]`.
    """

    chosen: np.ndarray
    corners: np.ndarray
    mirrored: np.ndarray


class Batches:
    """Batches that depend on seed and step only, so that arms are paired."""

    def __init__(self, setting: Setting, seeds: tuple[int, ...]):
        """Take the seeds of the lanes."""
        self._size = setting.protocol.batch_size
        self._num = len(setting.dataset.train_labels)
        self._per_epoch = self._num // self._size
        self._seeds = seeds
        self._epoch = -1
        self._orders: tuple[np.ndarray, ...] = ()

    def at(self, step: int) -> Batch:
        """The batches of a step, counted from 0."""
        epoch, batch = divmod(step, self._per_epoch)
        if epoch != self._epoch:
            drawn = [self._draw(seed, epoch) for seed in self._seeds]
            self._orders = tuple(np.stack(each) for each in zip(*drawn, strict=True))
            self._epoch = epoch
        part = slice(batch * self._size, (batch + 1) * self._size)
        return Batch(*(order[:, part] for order in self._orders))

    def _draw(self, seed: int, epoch: int) -> tuple[np.ndarray, ...]:
        order = np.random.default_rng((seed, epoch, 0)).permutation(self._num).astype(np.int32)
        draw = np.random.default_rng((seed, epoch, 1))
        corners = draw.integers(0, 2 * PADDING + 1, size=(self._num, 2), dtype=np.int32)
        return order, corners, draw.integers(0, 2, size=self._num).astype(bool)


def _augmented(image: jax.Array, corner: jax.Array, mirrored: jax.Array) -> jax.Array:
    padded = jnp.pad(image, ((PADDING, PADDING), (PADDING, PADDING), (0, 0)))
    crop = jax.lax.dynamic_slice(padded, (corner[0], corner[1], 0), image.shape)
    return jnp.where(mirrored, crop[:, ::-1], crop)


def _scaled(tree: Any, factors: Any, restores_norm: jax.Array) -> Any:
    """Leaf by leaf; where asked for, all of them scaled back together to the norm they had."""
    scaled = jax.tree.map(jnp.multiply, tree, factors)
    before, after = optax.tree.norm(tree), optax.tree.norm(scaled)
    is_sound = restores_norm & (after > 0) & jnp.isfinite(after)
    keep = jnp.where(is_sound, before / jnp.where(is_sound, after, 1.0), 1.0)
    return jax.tree.map(lambda leaf: leaf * keep, scaled)
