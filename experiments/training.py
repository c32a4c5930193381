"""A network and an optimizer, compiled once and trained from any seed.

The state of training is a plain tuple of arrays, so that a checkpoint is that tuple and a resumed
run is the uninterrupted one.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.data import Dataset
from experiments.devices import Devices

EVALUATION_BATCH = 512


class TrainState(NamedTuple):
    """Everything that training changes.

    Attributes:
        params: Parameters of the network.
        rest: Its other variables (running statistics of batch norm).
        opt_state: State of the optimizer.
        loss_sum: `f32[]`, sum of the batch losses of this epoch so far.
        num_correct: `i32[]`, correct predictions of this epoch so far, before each update.
    """

    params: Any
    rest: Any
    opt_state: optax.OptState
    loss_sum: jax.Array
    num_correct: jax.Array


class Network:
    """A module of NNX as pure functions of its variables."""

    def __init__(
        self,
        build: Callable[[nnx.Rngs], nnx.Module],
        dataset: Dataset,
        devices: Devices | None = None,
        *,
        dtype: jax.typing.DTypeLike = jnp.float32,
        label_smoothing: float = 0.0,
    ):
        """Choose the network.

        Args:
            build: Makes the module, from `f32[batch, height, width, channels]` to logits.
            dataset: Gives the moments that standardise the images.
            devices: Where to run. Default: one device.
            dtype: What convolutions and batch norms compute in. Parameters and running statistics
                are float32 all the same, and so are the statistics of a batch.
            label_smoothing: Share of the target that all classes have alike.
        """
        self.devices = devices or Devices()
        self._mean, self._deviation = dataset.channel_moments()
        self._dtype = jnp.dtype(dtype)
        self._label_smoothing = label_smoothing
        self.graphdef = nnx.graphdef(
            nnx.eval_shape(lambda: build(nnx.Rngs(params=jax.random.key(0, impl="rbg"))))
        )
        self.init = jax.jit(lambda key: nnx.state(build(nnx.Rngs(params=key)), nnx.Param, ...))
        self._evaluate = jax.jit(self._evaluate_batch)

    def resized(self, graphdef: nnx.GraphDef) -> Self:
        """The same network with the sizes of another graph; `init` stays that of the first."""
        other = copy.copy(self)
        other.graphdef = graphdef
        other._evaluate = jax.jit(other._evaluate_batch)
        return other

    def apply(self, params, rest, images: jax.Array, *, training: bool) -> tuple[jax.Array, Any]:
        """Logits `f32[batch, num_classes]` of `u8` images, and the other variables after."""
        rest = jax.tree.map(lambda leaf: leaf, rest)  # variables that this trace may write to
        model = nnx.merge(self.graphdef, params, rest)
        model.train() if training else model.eval()
        if self._dtype != jnp.float32:
            model.set_attributes(nnx.Conv, nnx.BatchNorm, dtype=self._dtype)
        logits = model((images / 255 - self._mean) / self._deviation)
        return logits.astype(jnp.float32), nnx.state(model, nnx.Not(nnx.Param))

    def loss(
        self, params, rest, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, tuple[Any, jax.Array]]:
        """Mean cross-entropy (nats) in training mode; other variables after, number correct."""
        logits, rest = self.apply(params, rest, images, training=True)
        if self._label_smoothing:
            targets = jax.nn.one_hot(labels, logits.shape[-1])
            targets = optax.smooth_labels(targets, self._label_smoothing)
            losses = optax.softmax_cross_entropy(logits, targets)
        else:
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), (rest, jnp.sum(logits.argmax(-1) == labels, dtype=jnp.int32))

    def evaluate(self, params, rest, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        """Mean cross-entropy (nats) and accuracy over any number of images."""
        loss, correct = 0.0, 0
        # Every device takes as many.
        size = -(-EVALUATION_BATCH // self.devices.count) * self.devices.count
        for start in range(0, len(images), size):
            chosen = slice(start, start + size)
            x, y = images[chosen], labels[chosen]
            missing = size - len(x)  # one compiled shape: label -1 marks the padding
            x = np.pad(x, ((0, missing), (0, 0), (0, 0), (0, 0)))
            y = np.pad(y, (0, missing), constant_values=-1)
            batch = self.devices.split(x, y)
            batch_loss, batch_correct = self._evaluate(params, rest, *batch)
            loss, correct = loss + float(batch_loss), correct + int(batch_correct)
        return loss / len(images), correct / len(images)

    def _evaluate_batch(self, params, rest, images, labels):
        logits, _ = self.apply(params, rest, images, training=False)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
        return jnp.sum(losses, where=labels >= 0), jnp.sum(logits.argmax(-1) == labels)


class Trainer:
    """The steps of one network with one optimizer."""

    def __init__(self, network: Network, optimizer: optax.GradientTransformationExtraArgs):
        """Take them together; what they share is compiled at the first call.

        Args:
            network: The network.
            optimizer: The transformation of an arm.
        """
        self.network = network
        self.devices = network.devices
        self._optimizer = optimizer
        self._init_optimizer = jax.jit(optimizer.init)
        self._jit_step = jax.jit(
            self._step, donate_argnums=0, out_shardings=network.devices.replicated
        )

    def init(self, seed: int) -> TrainState:
        """The state before training; the same parameters in every arm."""
        # On a CPU, XLA compiles this generator five times faster than the default one.
        params, rest = self.network.init(jax.random.key(seed, impl="rbg"))
        state = TrainState(params, rest, self._init_optimizer(params), jnp.zeros(()), jnp.zeros(()))
        return self.start_epoch(self.network.devices.replicate(state))

    def start_epoch(self, state: TrainState) -> TrainState:
        """The same state with the epoch's sums at zero."""
        zeros = self.network.devices.replicate((np.float32(0), np.int32(0)))
        return state._replace(loss_sum=zeros[0], num_correct=zeros[1])

    def step(self, state: TrainState, images: np.ndarray, labels: np.ndarray) -> TrainState:
        """One update on a batch; the buffers of the state given are reused."""
        return self._jit_step(state, *self.network.devices.split(images, labels))

    def evaluate(
        self, state: TrainState, images: np.ndarray, labels: np.ndarray
    ) -> tuple[float, float]:
        """Mean cross-entropy (nats) and accuracy over any number of images."""
        return self.network.evaluate(state.params, state.rest, images, labels)

    def _step(self, state: TrainState, images: jax.Array, labels: jax.Array) -> TrainState:
        value_and_grad = jax.value_and_grad(self.network.loss, has_aux=True)
        (loss, (rest, num_correct)), grads = value_and_grad(
            state.params, state.rest, images, labels
        )
        updates, opt_state = self._optimizer.update(
            grads, state.opt_state, state.params, value=loss, grad=grads
        )
        return TrainState(
            optax.apply_updates(state.params, updates),
            rest,
            opt_state,
            state.loss_sum + loss,
            state.num_correct + num_correct,
        )
