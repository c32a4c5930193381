"""Checkpoints of a run: the training state by path, and where in the run it was taken.

Orbax writes into a temporary folder and renames it, so a checkpoint is whole or not there.
"""

import logging
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import orbax.checkpoint as ocp

# Orbax reports every directory it touches; a progress bar is no place for that.
logging.getLogger("absl").setLevel(logging.ERROR)


class Position(NamedTuple):
    """Where in a run a checkpoint was taken.

    Attributes:
        epoch: Epochs finished.
        batch: Batches done in the epoch after those.
        metrics_bytes: Size of the metrics file then; what comes after it is recomputed.
        finished: Whether the run has nothing left to do.
        architecture: How the network has grown, as JSON values; None where it does not grow.
    """

    epoch: int = 0
    batch: int = 0
    metrics_bytes: int = 0
    finished: bool = False
    architecture: dict[str, Any] | None = None


class Checkpoints:
    """The newest checkpoints of one run in one folder."""

    def __init__(self, folder: Path):
        """Open the folder, creating it where it does not exist."""
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2, create=True, enable_async_checkpointing=False
            ),
        )

    def save(self, step: int, state: Any, position: Position) -> None:
        """Write a checkpoint after `step` training steps, unless that one is there already."""
        if step in self._manager.all_steps():
            self._manager.delete(step)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_by_path(state)),
                position=ocp.args.JsonSave(position._asdict()),
            ),
            force=True,
        )

    def position(self) -> Position | None:
        """Where the newest checkpoint was taken, without its state; None where there is none."""
        step = self._manager.latest_step()
        if step is None:
            return None
        restored: Any = self._manager.restore(
            step, args=ocp.args.Composite(position=ocp.args.JsonRestore())
        )
        return Position(**restored.position)

    def restore(self, like: Any) -> tuple[Any, Position] | None:
        """The newest checkpoint as (state, position); None where there is none.

        Args:
            like: A state of the same structure and shapes; its values are not used.

        Returns:
            The state, on the default device, and the position.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        restored: Any = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(_by_path(like)), position=ocp.args.JsonRestore()
            ),
        )
        leaves = [restored.state[path] for path in _by_path(like)]
        state = jax.tree.unflatten(jax.tree.structure(like), leaves)
        return state, Position(**restored.position)

    def __enter__(self) -> Self:
        """Release the manager's threads at the end of a `with` block."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Release the manager's threads."""
        self._manager.close()


def _by_path(tree: Any) -> dict[str, Any]:
    """The leaves by path: readable with Orbax alone, whatever classes the tree is made of."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
