"""`python -m tests.experiments.eight_devices FOLDER`: saved on eight devices, restored on two.

The parameters are sharded, the rest of the state is replicated. Prints the devices that the
restored arrays are on; `test_devices.py` restores the same checkpoint on one.
"""

import os
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from experiments.checkpoints import Checkpoints, Position
from experiments.devices import Devices
from pfn_optax import with_pfn
from tests.trees import dense


def state_of(devices: Devices, key: int) -> dict:
    """Parameters along their first axis over the devices, and the optimizer's state on each."""
    params = dense(key, 16, 32, 8)
    state = with_pfn(optax.adam(0.1)).init(params)
    along = NamedSharding(devices.replicated.mesh, PartitionSpec("batch"))
    return {"params": jax.device_put(params, along), "opt_state": devices.replicate(state)}


def main(folder: Path) -> None:
    saved = state_of(Devices(8), key=0)
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(5, saved, Position(epoch=1))
        restored, position = checkpoints.restore(state_of(Devices(2), key=1)) or (None, None)
    assert position == Position(epoch=1)
    jax.tree.map(np.testing.assert_array_equal, restored, saved)
    print(*sorted({len(leaf.sharding.device_set) for leaf in jax.tree.leaves(restored)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
