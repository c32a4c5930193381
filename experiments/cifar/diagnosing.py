"""`diagnose` on the network of a run: before training, and when training fails."""

from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from experiments.cifar.trainer import Trainer, TrainState
from experiments.data import Dataset
from pfn_optax import diagnose
from pfn_optax.diagnosis import Diagnosis

_NUM_IMAGES = 64


def diagnosis_of(
    trainer: Trainer,
    state: TrainState,
    dataset: Dataset,
    *,
    optimizer: optax.GradientTransformation,
    page: Path,
) -> Diagnosis:
    """Diagnose a network, print what is wrong, and write the page.

    Args:
        trainer: Gives the loss, with the precision that it is trained in.
        state: Parameters and batch statistics.
        dataset: Gives the first images, not augmented.
        optimizer: What would train it from here on. A schedule that begins with a warm-up is not
            what is to be judged: its largest learning rate is.
        page: Where to write the report, an HTML file.

    Returns:
        The diagnosis.
    """
    batch = dataset.train_images[:_NUM_IMAGES], dataset.train_labels[:_NUM_IMAGES]
    # On one device, as `diagnose` is run.
    params, rest = jax.tree.map(jnp.asarray, jax.device_get((state.params, state.rest)))

    def loss(params, batch):
        return trainer.network.loss(params, rest, *batch)

    diagnosis = diagnose(loss, params, batch, optimizer=optimizer, has_aux=True, progress=True)
    page.parent.mkdir(parents=True, exist_ok=True)
    diagnosis.html(page)
    print(diagnosis)
    print(f"\nas a page: {page}\n")
    return diagnosis
