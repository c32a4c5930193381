"""Training an hourglass of any widths by one compiled program, and a growth event.

All arms, widths and seeds run the same program: groups are padded, and numbers that differ (active
units, learning rate, strength of the amplification, number of steps) are arguments. Every capacity
diagnoses at every event in every arm, so each run also tells what the others would have named.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.data import Dataset
from experiments.growth import hourglass_network as network
from pfn_optax import FlowGraph, graph_from_loss, pfn, with_pfn
from pfn_optax.capacity import CAPACITIES, CapacityFn, Statistics
from pfn_optax.growth import grow_padded, only_active, rank_groups, state_kinds, widths
from pfn_optax.partition import Partition
from pfn_optax.units import UnitSpec, resized, unit_spec

BLOCK_SIZE = 4
"""Channels in a block."""
How = Literal["fresh", "split"]


class Setting(NamedTuple):
    """What shapes the program.

    Attributes:
        widths: channels that each convolution makes at the start.
        padded: what each may grow to.
        norm: whether batch norms follow the convolutions.
        batch_size: pictures in a batch.
        every: steps between events.
    """

    widths: tuple[int, ...]
    padded: tuple[int, ...]
    norm: bool
    batch_size: int
    every: int


class Pictures(NamedTuple):
    """Pictures for training and testing, normalised, and their labels."""

    num_classes: int
    train_images: jax.Array
    train_labels: jax.Array
    test_images: jax.Array
    test_labels: jax.Array


class Run(NamedTuple):
    """A network in training.

    Attributes:
        params: padded.
        state: of the optimizer.
        spec: its active units.
    """

    params: Any
    state: Any
    spec: UnitSpec

    @property
    def widths(self) -> list[int]:
        """Active units of each group, in the order of the convolutions."""
        return list(widths(self.spec).values())


def pictures(
    data: Dataset, *, num_train: int | None = None, num_test: int | None = None
) -> Pictures:
    """Normalises the first so many pictures of a data set, by default all, by channel."""
    mean, deviation = data.channel_moments()

    def normalised(images: np.ndarray) -> jax.Array:
        return jnp.asarray((images.astype(np.float32) / 255 - mean) / deviation)

    return Pictures(
        data.num_classes,
        normalised(data.train_images[:num_train]),
        jnp.asarray(data.train_labels[:num_train]),
        normalised(data.test_images[:num_test]),
        jnp.asarray(data.test_labels[:num_test]),
    )


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean over a batch, nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _among_active(groups: Callable[[Partition], np.ndarray]) -> CapacityFn:
    """The study's rank of a block among those of its group, as if there were no padding.

    Blocks in the padding have no weights: their capacity is zero, and no other is ranked by them.
    """

    def capacity(known: Statistics, layout: Partition) -> jax.Array:
        group = groups(layout)
        is_active = known.parameter_norms > 0
        norms = jnp.where(is_active, known.gradient_norms, jnp.inf)
        number = np.arange(len(group))
        is_before = (norms < norms[:, None]) | (
            (norms == norms[:, None]) & (number < number[:, None])
        )
        is_same = jnp.asarray(group == group[:, None]) & is_active
        place = (is_before & is_same).sum(axis=1)
        last = is_same.sum(axis=1) - 1
        share = jnp.where(last > 0, 0.1 + 0.9 * place / jnp.maximum(last, 1), 1.0)
        return jnp.where(is_active, share, 0.0)

    return capacity


RULES: dict[str, str | CapacityFn] = {name: name for name in CAPACITIES} | {
    "rank": _among_active(lambda layout: layout.block_layer),
    "global_rank": _among_active(lambda layout: np.zeros_like(layout.block_layer)),
}
"""The capacity modes; ranks leave the padding out, in the others its capacity is zero."""


class Harness:
    """The program for a setting, compiled once, and what belongs to it.

    Attributes:
        setting: the setting.
        spec: groups of the network that training starts with.
        padded_spec: the same, padded.
        graph: the flow graph.
    """

    def __init__(self, setting: Setting, data: Pictures):
        """Traces groups and graph; nothing is compiled yet."""
        self.setting = setting
        self._data = data
        params = self._draw(0, setting.widths)
        images, labels = data.train_images[:2], data.train_labels[:2]
        self.spec = unit_spec(network.convolved, params, images)
        padding = dict(zip(widths(self.spec), setting.padded, strict=True))
        self.padded_spec = resized(self.spec, padding)

        def loss(params, images, labels):
            return cross_entropy(network.convolved(params, images), labels)

        self.graph: FlowGraph = graph_from_loss(loss, params, images, labels)
        # Growth follows Adam's moments only; what the observers know of padded blocks stays.
        self._adam = optax.adam(1e-3)
        self._kinds = state_kinds(self._adam, params)
        self._initial_state = jax.jit(self._optimizer(1e-3, (0.0, 0.0)).init)
        self._steps = jax.jit(self._train)
        self._logits = jax.jit(network.logits)

    def start(self, seed: int, own_widths: Sequence[int] | None = None) -> Run:
        """A network before training, padded.

        Args:
            seed: of its parameters.
            own_widths: channels of its convolutions; by default the setting's.

        Returns:
            It.
        """
        own_widths = own_widths or self.setting.widths
        spec = resized(self.spec, dict(zip(widths(self.spec), own_widths, strict=True)))
        whole = self._draw(seed, self.setting.padded)
        params = jax.tree.map(_behind_zeros, self._draw(seed, own_widths), whole)
        return Run(params, self._initial_state(params), spec)

    def train(
        self,
        run: Run,
        seed: int,
        steps: range,
        rate: float,
        amplification: tuple[float, float] = (0.0, 0.0),
    ) -> tuple[Run, float]:
        """Takes some steps.

        Args:
            run: the network.
            seed: of the batches.
            steps: numbers of the steps, which choose the batches.
            rate: learning rate.
            amplification: beta of PFN by the default capacity and by ranks; 0 only diagnoses.

        Returns:
            The network, and the mean loss on these batches.
        """
        params, state, loss = self._steps(
            run.params,
            run.state,
            widths(run.spec),
            self._data,
            jax.random.key(1000 + seed),
            jnp.asarray([steps.start, steps.stop]),
            rate,
            amplification,
        )
        return run._replace(params=params, state=state), float(loss)

    def named(self, run: Run) -> dict[str, str | None]:
        """The group that the cut of each capacity asks to grow; None before a diagnosis."""
        observers, _ = run.state
        found = {}
        for state, (name, rule) in zip(observers, RULES.items(), strict=True):
            ranking = rank_groups(state, run.params, run.spec, capacity=rule, **self._options)
            ranked = (*ranking.groups, *ranking.beside)  # every arm adds as many units
            found[name] = ranked[0].group if ranked else None
        return found

    def grow(self, run: Run, group: str, num_units: int, how: How, seed: int) -> Run:
        """Adds units to a group; the function stays."""
        observers, amplified = run.state
        default = amplified
        ranks = default.inner_state
        grown = grow_padded(
            run.params,
            self.padded_spec,
            run.spec,
            group,
            num_units,
            how=how,
            optimizer=self._adam,
            optimizer_state=ranks.inner_state,
            kinds=self._kinds,
            key=jax.random.key(seed),
        )
        ranks = ranks._replace(inner_state=grown.optimizer_state)
        state = observers, default._replace(inner_state=ranks)
        return Run(grown.params, state, grown.spec)

    def accuracy(self, run: Run, *, batch_size: int = 500) -> float:
        """Share of the pictures for testing that it names; batch norms see whole batches."""
        images, labels = self._data.test_images, np.asarray(self._data.test_labels)
        said = [
            np.argmax(self._logits(run.params, images[start : start + batch_size]), axis=-1)
            for start in range(0, len(labels), batch_size)
        ]
        return float(np.mean(np.concatenate(said) == labels))

    def parameters(self, own_widths: Sequence[int]) -> int:
        """Parameters of a network of these widths."""
        return network.num_parameters(self._draw(0, own_widths))

    def flops(self, own_widths: Sequence[int]) -> int:
        """Of a step of training: multiply and add, once forward and twice backward."""
        size = self._data.train_images.shape[1]
        each = network.multiplications(self._draw(0, own_widths), size)
        return 6 * self.setting.batch_size * each

    @property
    def _options(self) -> dict[str, Any]:
        return {"block_size": BLOCK_SIZE, "graph": self.graph}

    def _draw(self, seed: int, own_widths: Sequence[int]) -> network.Params:
        return network.init(
            seed,
            own_widths,
            channels=self._data.train_images.shape[-1],
            num_classes=self._data.num_classes,
            norm=self.setting.norm,
        )

    def _optimizer(self, rate: Any, amplification: tuple[Any, Any]) -> Any:
        """Eight observers, and Adam amplified by the default's cuts and by those of the ranks."""
        options = {"every": self.setting.every, **self._options}
        by_default, by_rank = amplification
        return optax.chain(
            optax.chain(*(pfn(capacity=rule, beta=0.0, **options) for rule in RULES.values())),
            with_pfn(
                with_pfn(optax.adam(rate), capacity=RULES["rank"], beta=by_rank, **options),
                beta=by_default,
                **options,
            ),
        )

    def _train(self, params, state, active, data, key, steps, rate, amplification):
        optimizer = only_active(self._optimizer(rate, amplification), self.padded_spec)
        size = self.setting.batch_size

        def step(number, carry):
            params, state, total = carry
            own = jax.random.fold_in(key, number)
            chosen = jax.random.randint(own, (size,), 0, len(data.train_labels))

            def loss(params):
                logits = network.logits(params, data.train_images[chosen])
                return cross_entropy(logits, data.train_labels[chosen])

            value, gradients = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(gradients, state, params, active_units=active)
            return optax.apply_updates(params, updates), state, total + value

        first, last = steps
        params, state, total = jax.lax.fori_loop(first, last, step, (params, state, 0.0))
        return params, state, total / (last - first)


def _behind_zeros(leaf: np.ndarray, whole: np.ndarray) -> jax.Array:
    """A leaf in the corner of an array of the size of another."""
    room = [(0, size - own) for own, size in zip(leaf.shape, whole.shape, strict=True)]
    return jnp.asarray(np.pad(leaf, room))
