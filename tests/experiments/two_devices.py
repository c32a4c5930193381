"""`python -m tests.experiments.two_devices`: the script's step on two devices, and on one.

Prints the largest difference of the parameters after three steps, then the kinds of communication
in the compiled step.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

import re

import jax
import numpy as np
import optax

from experiments.cifar.networks import builder
from experiments.cifar.optimizer import sgd
from experiments.cifar.trainer import Trainer
from experiments.data import load
from experiments.devices import Devices
from experiments.training import Network


def main() -> None:
    digits = load("digits")
    batch = digits.train_images[:32], digits.train_labels[:32]
    found = []
    for count in (1, 2):
        network = Network(builder("small", digits, width=2), digits, Devices(count))
        optimizer = sgd(optax.constant_schedule(0.1), momentum=0.9, weight_decay=5e-4)
        trainer = Trainer(network, optimizer, augment=True, ema_decay=0.9)
        state = trainer.init(0)
        for _ in range(3):
            state = trainer.step(state, *batch)
        found.append(jax.device_get(state.average))
    program = trainer._jit_step.lower(state, *trainer.devices.split(*batch)).compile().as_text()
    difference = jax.tree.map(lambda a, b: np.abs(a - b).max(), *found)
    kinds = re.findall(r"(all-[a-z]+|collective-permute|reduce-scatter)(?:-start)?\(", program)
    print(max(jax.tree.leaves(difference)), *sorted(set(kinds)))


if __name__ == "__main__":
    main()
