"""The training step: augment, differentiate, update, average. One compiled program.

The state is a plain tuple of arrays, so that a checkpoint is that tuple; what is random in a step
depends on the seed and the step's number only. So a resumed run is the uninterrupted one.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.cifar.augmentation import augmented
from experiments.training import Network


class TrainState(NamedTuple):
    """Everything that training changes.

    Attributes:
        params: Parameters of the network, float32 whatever it computes in.
        rest: Its other variables (running statistics of batch norm).
        opt_state: State of the optimizer.
        average: Moving averages of `(params, rest)`, which are evaluated; () without averaging.
        seed: `i32[]`.
        step: `i32[]`, updates so far.
        loss_sum: `f32[]`, sum of the batch losses of this epoch so far.
        num_correct: `i32[]`, correct predictions of this epoch so far, before each update.
    """

    params: Any
    rest: Any
    opt_state: optax.OptState
    average: Any
    seed: jax.Array
    step: jax.Array
    loss_sum: jax.Array
    num_correct: jax.Array


class Trainer:
    """The steps of a network with an optimizer, of which `experiments.epochs.train` makes a run.

    Attributes:
        network: The network; another one once it has grown.
        optimizer: The optimizer.
        devices: Where it runs.
        epoch_start: The state at the start of the epoch, in host memory, if that is kept: once the
            loss is infinite, nothing can be told from the state any more.
    """

    def __init__(
        self,
        network: Network,
        optimizer: optax.GradientTransformationExtraArgs,
        *,
        augment: bool,
        ema_decay: float,
        keep_epoch_start: bool = False,
    ):
        """Take them together; what they share is compiled at the first call.

        Args:
            network: The network.
            optimizer: An optax transformation.
            augment: Whether to crop and mirror.
            ema_decay: Decay of the averages per step; 0 evaluates the network itself.
            keep_epoch_start: Whether to keep the state at the start of each epoch.
        """
        self.network = network
        self.optimizer = optimizer
        self.devices = network.devices
        self._augment = augment
        self._ema_decay = ema_decay
        self._keep_epoch_start = keep_epoch_start
        self.epoch_start: TrainState | None = None
        self._jit_step = jax.jit(
            self._step, donate_argnums=0, out_shardings=self.devices.replicated
        )

    def init(self, seed: int) -> TrainState:
        """The state before training, on every device."""
        # On a CPU, XLA compiles this generator five times faster than the default one.
        params, rest = self.network.init(jax.random.key(seed, impl="rbg"))
        return self.state_of(params, rest, jax.jit(self.optimizer.init)(params), seed=seed, step=0)

    def state_of(self, params, rest, opt_state, *, seed: Any, step: Any) -> TrainState:
        """A state whose averages begin with these parameters."""
        average = jax.tree.map(jnp.copy, (params, rest)) if self._ema_decay else ()
        counters: Any = np.int32(seed), np.int32(step), np.float32(0), np.int32(0)
        return self.devices.replicate(TrainState(params, rest, opt_state, average, *counters))

    def resize(self, graphdef: nnx.GraphDef) -> None:
        """Go on with a network of other sizes; its first step compiles a new program."""
        self.network = self.network.resized(graphdef)

    def start_epoch(self, state: TrainState) -> TrainState:
        """The same state with the epoch's sums at zero."""
        if self._keep_epoch_start:
            self.epoch_start = jax.device_get(state)
        loss_sum, num_correct = self.devices.replicate((np.float32(0), np.int32(0)))
        return state._replace(loss_sum=loss_sum, num_correct=num_correct)

    def step(self, state: TrainState, images: np.ndarray, labels: np.ndarray) -> TrainState:
        """One update on a batch; the buffers of the state given are reused."""
        return self._jit_step(state, *self.devices.split(images, labels))

    def evaluate(
        self, state: TrainState, images: np.ndarray, labels: np.ndarray
    ) -> tuple[float, float]:
        """Mean cross-entropy (nats) and accuracy of the averaged network."""
        params, rest = state.average or (state.params, state.rest)
        return self.network.evaluate(params, rest, images, labels)

    def _step(self, state: TrainState, images: jax.Array, labels: jax.Array) -> TrainState:
        if self._augment:
            key = jax.random.fold_in(jax.random.key(state.seed), state.step)
            images = augmented(key, images)
        value_and_grad = jax.value_and_grad(self.network.loss, has_aux=True)
        (loss, (rest, num_correct)), grads = value_and_grad(
            state.params, state.rest, images, labels
        )
        updates, opt_state = self.optimizer.update(
            grads, state.opt_state, state.params, value=loss, grad=grads
        )
        params = optax.apply_updates(state.params, updates)
        return TrainState(
            params=params,
            rest=rest,
            opt_state=opt_state,
            average=self._averaged(state, params, rest),
            seed=state.seed,
            step=state.step + 1,
            loss_sum=state.loss_sum + loss,
            num_correct=state.num_correct + num_correct,
        )

    def _averaged(self, state: TrainState, params: Any, rest: Any) -> Any:
        if not self._ema_decay:
            return ()
        # At first the average of few steps: a fixed decay would remember the start for thousands.
        decay = jnp.minimum(self._ema_decay, (1 + state.step) / (10 + state.step))
        return optax.incremental_update((params, rest), state.average, 1 - decay)
