"""A training script to start a project from: CIFAR-10 on a laptop's cores or on accelerators.

- `train`: the command, `python -m experiments cifar`; read it first.
- `trainer`: the state of training and its compiled step: augmentation, mixed precision, averages.
- `augmentation`, `optimizer`: what the step is made of.
- `growing`, `watching`, `diagnosing`: what `pfn_optax` adds to it.

The loop over epochs, checkpoints, devices and logs are those of all experiments.
"""

from experiments.cifar.train import CifarTraining

__all__ = ["CifarTraining"]
