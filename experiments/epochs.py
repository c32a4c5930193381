"""One run, epoch by epoch: train, record, checkpoint; resumed exactly where it was left."""

import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from experiments import interrupts, runs
from experiments.batches import batches
from experiments.checkpoints import Checkpoints, Position
from experiments.data import Dataset
from experiments.devices import Devices


class Trainable(Protocol):
    """Compiled functions of a network and an optimizer, on a state that is a tree of arrays.

    The state has a `loss_sum` and a `num_correct` of the epoch so far.
    """

    devices: Devices

    def init(self, seed: int) -> Any:
        """The state before training."""
        ...

    def start_epoch(self, state: Any) -> Any:
        """The same state with the epoch's sums at zero."""
        ...

    def step(self, state: Any, images: np.ndarray, labels: np.ndarray) -> Any:
        """The state after one update; the buffers of the one given are reused."""
        ...

    def evaluate(self, state: Any, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        """Mean loss and accuracy."""
        ...


class Reader(Protocol):
    """Reads something out of the state while the network trains."""

    def is_due(self, step: int) -> bool:
        """Whether there is something to read after this step, counted from 1."""
        ...

    def record(self, state: Any, *, step: int) -> dict[str, Any]:
        """One line for the metrics file, with the keys `kind` and `step`."""
        ...


class Growth(Protocol):
    """Changes the sizes of the network between epochs."""

    def architecture(self) -> dict[str, Any]:
        """What a checkpoint must hold of it, as JSON values."""
        ...

    def restored(self, initial: Any, architecture: dict[str, Any]) -> Any:
        """A state of the sizes of a checkpoint, to read it into."""
        ...

    def grown(self, state: Any, *, step: int) -> tuple[Any, dict[str, Any]]:
        """The state to go on with, and a line for the metrics file."""
        ...


def train(
    trainer: Trainable,
    dataset: Dataset,
    *,
    folder: Path,
    seed: int,
    config: dict[str, Any],
    readers: Sequence[Reader],
    checkpoint_seconds: float,
    description: str,
    growth: Growth | None = None,
) -> None:
    """Train one seed of one arm, from its checkpoint if there is one; does nothing when finished.

    A loss that is not finite ends the run early: it is recorded, and the comparison goes on.

    Args:
        trainer: Compiled functions of the arm.
        dataset: What to train on.
        folder: Folder of this run.
        seed: Sets initial parameters and batches.
        config: `epochs`, `batch_size` and `augment`: whether to crop and mirror on the host.
        readers: What is recorded while it trains.
        checkpoint_seconds: Seconds between checkpoints.
        description: Title of the progress bar.
        growth: What changes the network's sizes, asked before each epoch.

    With several processes, all call this alike and the first one writes the logs.

    Raises:
        Interrupted: If the user asked to stop; a checkpoint has been written.
    """
    if (folder / "finished.json").exists():
        return
    epochs, batch_size = config["epochs"], config["batch_size"]
    steps_per_epoch = dataset.num_batches(batch_size)
    checkpoints = Checkpoints(folder / "checkpoints")
    state = trainer.init(seed)
    saved = checkpoints.position()
    if growth is not None and saved is not None and saved.architecture is not None:
        state = growth.restored(state, saved.architecture)
    state, position = checkpoints.restore(state) or (state, Position())
    devices = trainer.devices
    log, timings = runs.NoLog(), runs.NoLog()
    if devices.is_main:
        log = runs.MetricsLog(folder, keep_bytes=position.metrics_bytes)
        timings = runs.LineLog(folder / "timings.jsonl")
    step = position.epoch * steps_per_epoch + position.batch
    last_saved = time.monotonic()

    def position_at(**where) -> Position:
        architecture = None if growth is None else growth.architecture()
        return Position(metrics_bytes=log.num_bytes, architecture=architecture, **where)

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
                if growth is not None:
                    state, record = growth.grown(state, step=step)
                    log.write(record)
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
                for reader in readers:
                    if reader.is_due(step):
                        log.write(reader.record(state, step=step))
                is_time = time.monotonic() - last_saved > checkpoint_seconds
                stopping, saving = devices.any_process(stop.received is not None, is_time)
                if stopping or saving:
                    checkpoints.save(step, state, position_at(epoch=epoch, batch=batch + 1))
                    last_saved = time.monotonic()
                if stopping:
                    raise interrupts.Interrupted(stop.received or signal.SIGTERM)

            trained = time.monotonic()
            train_loss = float(state.loss_sum) / steps_per_epoch
            test_loss, test_accuracy = trainer.evaluate(
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
            position = position_at(epoch=epoch + 1, finished=finished)
        checkpoints.save(step, state, position)
        if devices.is_main:
            runs.write_json(folder / "finished.json", {"epochs": position.epoch, "step": step})
        if stop.received:
            raise interrupts.Interrupted(stop.received)
