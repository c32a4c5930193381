"""Activations during training: taps that run every some steps, and the last records of them."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pfn_optax.propagation.ring import require_ring, write
from pfn_optax.propagation.taps import ActivationTaps
from pfn_optax.when import when


class ActivationMonitorState(NamedTuple):
    """State of an `ActivationMonitor`; records are in a ring, the n-th in row n modulo `capacity`.

    Attributes:
        activation_step: i32[], steps so far.
        activation_records: i32[], records so far.
        activation_steps: i32[capacity], the step of each record; 0 where there is none yet.
        activation_values: by name of the layer the statistics, each f[capacity, ...].
    """

    activation_step: jax.Array
    activation_records: jax.Array
    activation_steps: jax.Array
    activation_values: dict[str, Any]


@dataclass(frozen=True, eq=False)
class ActivationMonitor:
    """Taps for a training loop, made by `activation_monitor`.

    Attributes:
        taps: what is recorded.
        every: steps between records.
        capacity: how many records are kept.
    """

    taps: ActivationTaps
    every: int
    capacity: int

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the layers in the order of execution, for `activation_history`."""
        return self.taps.names

    def init(self, params: Any, *args: Any) -> ActivationMonitorState:
        """Returns a state without records; of the arguments, only shapes are read."""
        shapes = jax.eval_shape(lambda *args: self.taps(*args).layers, params, *args)
        return ActivationMonitorState(
            activation_step=jnp.zeros((), jnp.int32),
            activation_records=jnp.zeros((), jnp.int32),
            activation_steps=jnp.zeros(self.capacity, jnp.int32),
            activation_values=jax.tree.map(
                lambda leaf: jnp.zeros((self.capacity, *leaf.shape), leaf.dtype), shapes
            ),
        )

    def update(
        self, state: ActivationMonitorState, params: Any, *args: Any
    ) -> ActivationMonitorState:
        """Counts a step and, if it is due, runs the taps; for inside of the training step."""
        state = state._replace(
            activation_step=jnp.asarray(optax.safe_increment(state.activation_step))
        )
        is_due = state.activation_step % self.every == 0
        given, state = jax.lax.stop_gradient(((params, args), state))
        return when(is_due, self._record, given, state)

    def _record(self, given: tuple[Any, Any], state: ActivationMonitorState) -> Any:
        params, args = given
        count = state.activation_records
        return state._replace(
            activation_records=count + 1,
            activation_steps=write(state.activation_steps, count, state.activation_step),
            activation_values=jax.tree.map(
                lambda ring, value: write(ring, count, value),
                state.activation_values,
                self.taps(params, *args).layers,
            ),
        )


def activation_monitor(
    taps: ActivationTaps, *, every: int = 50, capacity: int = 200
) -> ActivationMonitor:
    """Makes what records activations in a training step.

    A record costs one more run of the tapped function: give it part of the batch, a few hundred
    rows. Steps between records cost one comparison, also under `vmap`. The state is a tree of
    arrays of fixed shapes, for `jax.lax.scan` and for checkpoints beside that of the optimizer.

    Args:
        taps: made by `activation_taps`, with statistics of real numbers.
        every: steps between records; the first is at step `every`.
        capacity: how many records are kept, the last ones.

    Returns:
        An `ActivationMonitor`: its `init(params, *args)` and `update(state, params, *args)`.

    Raises:
        ValueError: if `every` or `capacity` is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.propagation import activation_history, activation_monitor
        >>> from pfn_optax.propagation import activation_taps
        >>> params, x = {"Dense_0": {"kernel": jnp.eye(2)}}, jnp.ones((4, 2))
        >>> def predict(params, x):
        ...     return jnp.tanh(x @ params["Dense_0"]["kernel"])
        >>> monitor = activation_monitor(activation_taps(predict, params, x), every=2)
        >>> state = monitor.init(params, x)
        >>> for _ in range(4):
        ...     state = monitor.update(state, params, x)
        >>> history = activation_history(state, monitor.names)
        >>> print(history.steps, history.values["mean_square"].tolist())
        [2 4] [[1.0], [1.0]]
    """
    require_ring(every, capacity)
    return ActivationMonitor(taps, every, capacity)
