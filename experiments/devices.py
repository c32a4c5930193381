"""The devices of a run, in one process or several: batches split over them, the rest replicated.

JAX's runtime does the work: every process runs the same program on its part of each batch, and the
compiled step adds the gradients up.
"""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.errors import UsageError

# The others end when a process has given no sign of life for so long (by default 100).
_HEARTBEAT_SECONDS = 20


class Devices:
    """A mesh with one axis, along which batches are split.

    Attributes:
        count: Number of devices, those of other processes included.
        is_main: Whether this process writes the logs.
    """

    def __init__(self, per_process: int | None = 1):
        """Take devices of every process.

        Args:
            per_process: How many of each process; None for all.

        Raises:
            UsageError: If a process has fewer.
        """
        chosen = []
        for process in range(jax.process_count()):
            local = [each for each in jax.devices() if each.process_index == process]
            if per_process is not None and per_process > len(local):
                raise UsageError(
                    f"devices must be at most the {len(local)} {local[0].platform} devices of "
                    f"process {process}; got {per_process}"
                )
            chosen += local[:per_process]
        mesh = Mesh(np.asarray(chosen), ("batch",))
        self.count = len(chosen)
        self.is_main = jax.process_index() == 0
        self.replicated = NamedSharding(mesh, PartitionSpec())
        self._split = NamedSharding(mesh, PartitionSpec("batch"))

    def require_split(self, batch_size: int) -> None:
        """Check that batches can be cut.

        Raises:
            UsageError: If not every device would take as many examples.
        """
        if batch_size % self.count:
            raise UsageError(
                f"batch_size must be a multiple of the {self.count} devices; got {batch_size}"
            )

    def replicate(self, tree: Any) -> Any:
        """The same arrays on every device; every process passes equal values."""
        return jax.device_put(tree, self.replicated)

    def split(self, *arrays: np.ndarray) -> tuple[jax.Array, ...]:
        """Arrays cut along their first axis; every process passes all of them, and keeps its part.

        Args:
            arrays: Each `[batch, ...]`, where `batch` is a multiple of `count`.

        Returns:
            The same as global arrays.
        """
        return tuple(
            jax.make_array_from_callback(array.shape, self._split, array.__getitem__)
            for array in arrays
        )

    def any_process(self, *wishes: bool) -> tuple[bool, ...]:
        """Whether any process wishes each: saving and stopping are for all of them at once."""
        if jax.process_count() == 1:
            return wishes
        return tuple(multihost_utils.process_allgather(np.asarray(wishes)).any(0).tolist())

    def wait_for_all(self, name: str) -> None:
        """Returns when every process has called this."""
        multihost_utils.sync_global_devices(name)


def connect(
    devices: int | None,
    *,
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
) -> Devices:
    """Join the other processes, if there are any, before JAX is used for anything else.

    Args:
        devices: Devices of each process to use. Default: one, or all where there are processes.
        coordinator: `HOST:PORT` of process 0; None for a single process.
        num_processes: Number of processes.
        process_id: Number of this one, from 0.

    Returns:
        The devices of the run.

    Raises:
        UsageError: If the options do not fit together, or there are too few devices.
    """
    options = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in options.items() if value is None]
    if missing and len(missing) < len(options):
        raise UsageError(
            "coordinator, num_processes and process_id are given together or not at all; "
            f"missing: {', '.join(missing)}"
        )
    if devices is not None and devices < 1:
        raise UsageError(f"devices must be at least 1; got {devices}")
    if devices is not None and devices > 1:
        jax.config.update("jax_num_cpu_devices", devices)  # a CPU is one device otherwise
    if coordinator is None or num_processes is None or process_id is None:
        return Devices(devices or 1)
    if not 0 <= process_id < num_processes:
        raise UsageError(
            f"process_id must be in [0, {num_processes}), one for each process; got {process_id}"
        )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        coordinator, num_processes, process_id, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS
    )
    return Devices(devices)
