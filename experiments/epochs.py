"""One run, epoch by epoch: train, record, checkpoint; resumed exactly where it was left."""

import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from experiments import interrupts, runs
from experiments.batches import batches
from experiments.checkpoints import Checkpoints, Position
from experiments.data import Dataset
from experiments.diagnoses import DiagnosisReader
from experiments.training import Trainer


def train(
    trainer: Trainer,
    dataset: Dataset,
    *,
    folder: Path,
    seed: int,
    config: dict[str, Any],
    diagnoses: DiagnosisReader | None,
    checkpoint_seconds: float,
    description: str,
) -> None:
    """Train one seed of one arm, from its checkpoint if there is one; does nothing when finished.

    A loss that is not finite ends the run early: it is recorded, and the comparison goes on.

    Args:
        trainer: Compiled functions of the arm.
        dataset: What to train on.
        folder: Folder of this run.
        seed: Sets initial parameters and batches.
        config: `epochs`, `batch_size` and `augment`.
        diagnoses: Reads PFN's state into records; None without PFN.
        checkpoint_seconds: Seconds between checkpoints.
        description: Title of the progress bar.

    With several processes, all call this alike and the first one writes the logs.

    Raises:
        Interrupted: If the user asked to stop; a checkpoint has been written.
    """
    if (folder / "finished.json").exists():
        return
    epochs, batch_size = config["epochs"], config["batch_size"]
    steps_per_epoch = len(dataset.train_labels) // batch_size
    checkpoints = Checkpoints(folder / "checkpoints")
    initial = trainer.init(seed)
    state, position = checkpoints.restore(initial) or (initial, Position())
    devices = trainer.network.devices
    log, timings = runs.NoLog(), runs.NoLog()
    if devices.is_main:
        log = runs.MetricsLog(folder, keep_bytes=position.metrics_bytes)
        timings = runs.LineLog(folder / "timings.jsonl")
    step = position.epoch * steps_per_epoch + position.batch
    last_saved = time.monotonic()

    def save(**where) -> None:
        nonlocal last_saved
        checkpoints.save(step, state, Position(metrics_bytes=log.num_bytes, **where))
        last_saved = time.monotonic()

    bar = tqdm(
        total=epochs * steps_per_epoch,
        initial=step,
        desc=description,
        unit=" steps",
        disable=not devices.is_main,
    )
    with interrupts.deferred() as stop, bar, log, timings, checkpoints:
        while not position.finished:
            started = time.monotonic()
            epoch, first = position.epoch, position.batch
            if first == 0:
                state = trainer.start_epoch(state)
            for batch, (images, labels) in enumerate(
                batches(
                    dataset.train_images,
                    dataset.train_labels,
                    batch_size=batch_size,
                    seed=seed,
                    epoch=epoch,
                    augment=config["augment"],
                    start=first,
                ),
                start=first,
            ):
                state = trainer.step(state, images, labels)
                step += 1
                bar.update()
                if diagnoses is not None and diagnoses.is_due(step):
                    log.write(diagnoses.record(state, step=step))
                is_time = time.monotonic() - last_saved > checkpoint_seconds
                stopping, saving = devices.any_process(stop.received is not None, is_time)
                if stopping or saving:
                    save(epoch=epoch, batch=batch + 1)
                if stopping:
                    raise interrupts.Interrupted(stop.received or signal.SIGTERM)

            trained = time.monotonic()
            train_loss = float(state.loss_sum) / steps_per_epoch
            test_loss, test_accuracy = trainer.network.evaluate(
                state, dataset.test_images, dataset.test_labels
            )
            is_finite = bool(np.isfinite([train_loss, test_loss]).all())
            log.write(
                {
                    "kind": "epoch",
                    "epoch": epoch + 1,
                    "step": step,
                    "train_loss": train_loss,
                    "train_accuracy": int(state.num_correct) / (steps_per_epoch * batch_size),
                    "test_loss": test_loss,
                    "test_accuracy": test_accuracy,
                    "is_finite": is_finite,
                }
            )
            timings.write(
                {
                    "epoch": epoch + 1,
                    "steps": steps_per_epoch - first,
                    "train_seconds": trained - started,
                    "test_seconds": time.monotonic() - trained,
                }
            )
            bar.set_postfix(loss=f"{train_loss:.3f}", accuracy=f"{test_accuracy:.3f}")
            if not is_finite and devices.is_main:
                message = f"{description}: loss not finite in epoch {epoch + 1}, run ended"
                tqdm.write(message, file=sys.stderr)
            finished = not is_finite or epoch + 1 == epochs
            position = Position(epoch=epoch + 1, metrics_bytes=log.num_bytes, finished=finished)
        checkpoints.save(step, state, position)
        if devices.is_main:
            runs.write_json(folder / "finished.json", {"epochs": position.epoch, "step": step})
        if stop.received:
            raise interrupts.Interrupted(stop.received)
