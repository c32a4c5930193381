"""PFN's state, read during training into one record per diagnosis."""

from typing import Any

import numpy as np
import optax

from experiments.training import TrainState
from pfn_optax import cut_report


class DiagnosisReader:
    """Turn the state after a diagnosing step into a record by layer."""

    def __init__(self, every: int, flow: dict[str, Any]):
        """Make a reader.

        Args:
            every: Steps between diagnoses.
            flow: Graph and block sizes, as given to the transformation.
        """
        self._every = every
        self._flow = flow
        self._layers: list[str] | None = None

    def is_due(self, step: int) -> bool:
        """Whether PFN diagnosed in this step, counted from 1."""
        return step % self._every == 0

    def record(self, state: TrainState, *, step: int) -> dict[str, Any]:
        """One line for the metrics file.

        Args:
            state: State after the diagnosing step.
            step: Number of that step.

        Returns:
            For each layer the share of its blocks in the cut and their mean multiplier; the flow's
            value, certificate and uniqueness; PFN's status code.
        """
        if self._layers is None:
            rows = cut_report(state.opt_state, state.params, **self._flow).rows
            self._layers = [row.layer for row in rows]  # one row per block, in block order
        read = {
            name: np.asarray(optax.tree.get(state.opt_state, f"pfn_{name}"))
            for name in ("cut", "multipliers", "flow", "certified", "unique", "status")
        }
        return {
            "kind": "diagnosis",
            "step": step,
            "cut": _mean_by_layer(self._layers, read["cut"]),
            "multipliers": _mean_by_layer(self._layers, read["multipliers"]),
            "flow": float(read["flow"]),
            "certified": bool(read["certified"]),
            "unique": bool(read["unique"]),
            "status": int(read["status"]),
        }


def _mean_by_layer(layers: list[str], values: np.ndarray) -> dict[str, float]:
    names = list(dict.fromkeys(layers))
    of_block = np.asarray([names.index(layer) for layer in layers])
    return {name: float(values[of_block == i].mean()) for i, name in enumerate(names)}
