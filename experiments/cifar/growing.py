"""Growth between epochs: the network's groups of units, and the state of training along with them.

`GrowthController` takes modules of NNX and their `nnx.Optimizer`; training holds trees of arrays.
This file is the way there and back.
"""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from tqdm import tqdm

from experiments.cifar.trainer import Trainer, TrainState
from experiments.data import Dataset
from pfn_optax.growth import Budget, GrowthController, cost_of
from pfn_optax.units import unit_spec

_NUM_COMPARED = 8
"""Images on which the outputs before and after a change are compared."""


class Growing:
    """The network grows where its cut is, as far as a budget of parameters goes."""

    def __init__(
        self,
        trainer: Trainer,
        dataset: Dataset,
        *,
        budget: float,
        flow: dict[str, Any],
    ):
        """Trace the groups of units.

        Args:
            trainer: Of the network that the run starts with; resized when it grows.
            dataset: Gives the shape of an image.
            budget: Number of parameters allowed, as a multiple of those at the start.
            flow: `capacity`, `graph` and `num_blocks`, as given to `pfn`.
        """
        self._trainer = trainer
        self._inputs = (jnp.ones((_NUM_COMPARED, *dataset.image_shape)),)
        params, rest = jax.eval_shape(trainer.network.init, jax.random.key(0, impl="rbg"))
        graphdef = self._graphdef(params, rest)

        def predict(variables: tuple, images: jax.Array) -> jax.Array:
            return nnx.merge(graphdef, *variables)(images)

        # The outputs before and after each change are compared, which proves the spec as well.
        spec = unit_spec(predict, (params, rest), *self._inputs, check=False)
        self._controller = GrowthController(
            spec,
            trainer.optimizer,
            budget=Budget(params=round(budget * cost_of(params).params)),
            **flow,
        )

    def architecture(self) -> dict[str, Any]:
        """The controller's record."""
        return self._controller.record.to_dict()

    def restored(self, initial: TrainState, architecture: dict[str, Any]) -> TrainState:
        """A state of the sizes of a checkpoint, to read it into."""
        module, optimizer = self._controller.restore_module(architecture, *self._modules(initial))
        return self._adopted(module, optimizer, initial)

    def grown(self, state: TrainState, *, step: int) -> tuple[TrainState, dict[str, Any]]:
        """Ask the controller; the averages begin anew where it changes something."""
        module, optimizer = self._modules(state)
        stepped = self._controller.step_module(module, optimizer, inputs=self._inputs, step=step)
        if stepped.has_changed:
            state = self._adopted(stepped.module, stepped.optimizer, state)
            if self._trainer.devices.is_main:
                tqdm.write(str(stepped.decision), file=sys.stderr)
        return state, {
            "kind": "growth",
            "step": step,
            "num_params": stepped.decision.num_params,
            "widths": self._controller.record.widths,
            "reasons": list(stepped.decision.reasons),
        }

    def _graphdef(self, params: Any, rest: Any) -> nnx.GraphDef:
        """The network's graph with running statistics in use, as the controller compares it."""
        module = nnx.merge(self._trainer.network.graphdef, params, rest)
        module.eval()
        return nnx.graphdef(module)

    def _modules(self, state: TrainState) -> tuple[Any, nnx.Optimizer]:
        params, rest = jax.tree.map(jnp.copy, (state.params, state.rest))
        module = nnx.merge(self._graphdef(params, rest), params, rest)
        optimizer = nnx.Optimizer(module, self._trainer.optimizer, wrt=nnx.Param)
        optimizer.opt_state = _as_of(optimizer.opt_state, state.opt_state)
        return module, optimizer

    def _adopted(self, module: Any, optimizer: nnx.Optimizer, old: TrainState) -> TrainState:
        trainer = self._trainer
        graphdef, params, rest = nnx.split(module, nnx.Param, ...)
        trainer.resize(graphdef)
        shapes = jax.eval_shape(trainer.optimizer.init, params)
        opt_state = _as_of(shapes, optimizer.opt_state)
        return trainer.state_of(params, rest, opt_state, seed=old.seed, step=old.step)


def _as_of(like: Any, tree: Any) -> optax.OptState:
    """The leaves of one tree in the structure of another."""
    return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(tree))
