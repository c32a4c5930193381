"""What is read out of the optimizer's state while the network trains."""

from typing import Any

from experiments.cifar.trainer import TrainState
from pfn_optax.propagation import propagation_history


class PropagationReader:
    """Turn the last record of `propagation_monitor` into a line for the metrics file."""

    def __init__(self, every: int):
        """Take the steps between records, as given to the monitor."""
        self._every = every

    def is_due(self, step: int) -> bool:
        """Whether the monitor recorded in this step, counted from 1."""
        return step % self._every == 0

    def record(self, state: TrainState, *, step: int) -> dict[str, Any]:
        """Gradient norm, parameter norm and update ratio of each layer."""
        history = propagation_history(state.opt_state, state.params)
        return {
            "kind": "propagation",
            "step": step,
            **{
                measure: dict(zip(history.layers, map(float, values[-1]), strict=True))
                for measure, values in history.values.items()
            },
        }
