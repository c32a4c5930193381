"""What PFN costs per step: compiled steps of all arms, interleaved on one batch."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from experiments.data import Dataset
from experiments.training import Trainer


def measure(
    trainers: Mapping[str, Trainer],
    dataset: Dataset,
    batch_size: int,
    *,
    every: int,
    repeats: int = 30,
) -> dict[str, dict[str, Any]]:
    """Time one step of each arm; medians of interleaved repetitions.

    Between diagnoses a PFN step only measures norms and scales; every `every` steps it diagnoses.
    Both kinds are timed (by setting the state's step counter), and
    amortised = quiet + (diagnosing - quiet) / every.

    Args:
        trainers: Trainer of each arm.
        dataset: Gives the batch.
        batch_size: Images per step.
        every: Steps between diagnoses.
        repeats: Timed steps of each kind.

    Returns:
        For each arm `step_seconds` (amortised) and `ratio_to_plain` (None without a plain arm), for
        PFN arms also `quiet_step_seconds` and `diagnosing_step_seconds`.
    """
    images, labels = dataset.train_images[:batch_size], dataset.train_labels[:batch_size]
    states = {arm: trainer.init(0) for arm, trainer in trainers.items()}
    seconds: dict[tuple[str, bool], list[float]] = {}
    for repeat in range(repeats + 2):  # the first two compile and warm up
        for arm, trainer in trainers.items():
            for is_diagnosing in (False,) if arm == "plain" else (False, True):
                state = states[arm]
                if arm != "plain":
                    # Each step gets a counter of its own: the step before gave its buffers away.
                    counter = np.int32(every - 1 if is_diagnosing else 0)
                    counter = trainer.network.devices.replicate(counter)
                    opt_state = optax.tree.set(state.opt_state, pfn_step=counter)
                    state = state._replace(opt_state=opt_state)
                jax.block_until_ready(state)
                started = time.perf_counter()
                states[arm] = jax.block_until_ready(trainer.step(state, images, labels))
                if repeat >= 2:
                    taken = time.perf_counter() - started
                    seconds.setdefault((arm, is_diagnosing), []).append(taken)
    plain = float(np.median(seconds["plain", False])) if "plain" in trainers else None
    result = {}
    for arm in trainers:
        quiet = float(np.median(seconds[arm, False]))
        entry: dict[str, Any] = {"step_seconds": quiet}
        if arm != "plain":
            diagnosing = float(np.median(seconds[arm, True]))
            entry["step_seconds"] = quiet + (diagnosing - quiet) / every
            entry["quiet_step_seconds"] = quiet
            entry["diagnosing_step_seconds"] = diagnosing
        entry["ratio_to_plain"] = None if plain is None else entry["step_seconds"] / plain
        result[arm] = entry
    return result
