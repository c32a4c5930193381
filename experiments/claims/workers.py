"""Runs divided over processes, each with one core or one GPU; what is done is on disk at once."""

import concurrent.futures
import concurrent.futures.process
import contextlib
import functools
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.claims.arms import OptimizerName, Scenario
from experiments.claims.program import Program
from experiments.claims.protocols import PROTOCOLS, ProtocolName
from experiments.claims.setting import Setting, material
from experiments.claims.training import train
from experiments.data import DatasetName
from experiments.errors import ExperimentError
from experiments.interrupts import Interrupted, deferred

Record = dict[str, Any]
NAMES = ("scenario", "optimizer", "arm", "rate", "seed")


class WorkerError(ExperimentError):
    """A process that trains has died."""


class Piece(NamedTuple):
    """One run."""

    scenario: Scenario
    optimizer: OptimizerName
    arm: str
    rate: float
    seed: int


class Study(NamedTuple):
    """What all runs have in common."""

    protocol: ProtocolName
    dataset: DatasetName
    data_dir: Path | None
    lanes: int


def jobs(pieces: Sequence[Piece], num_lanes: int) -> list[tuple[Piece, ...]]:
    """Runs of the same arm put side by side, as many as there are lanes."""
    by_arm: dict[tuple[str, ...], list[Piece]] = {}
    for piece in pieces:
        by_arm.setdefault(piece[:3], []).append(piece)
    return [
        tuple(own[i : i + num_lanes])
        for own in by_arm.values()
        for i in range(0, len(own), num_lanes)
    ]


def done(study: Study, work: Sequence[tuple[Piece, ...]], num_workers: int) -> Iterator[Record]:
    """The records of jobs, as they get done.

    Args:
        study: What the runs have in common.
        work: The jobs.
        num_workers: Processes; with one, this process does the work.

    Yields:
        A record per run.

    Raises:
        Interrupted: After Ctrl-C, once the jobs that have begun are done.
        WorkerError: If a worker died.
    """
    with deferred() as stop:
        if num_workers == 1:
            found = (do(study, job) for job in work)
        else:
            found = _pool(study, work, num_workers, stop)
        try:
            for records in found:
                yield from records
                if stop.received and num_workers == 1:
                    break
        except concurrent.futures.process.BrokenProcessPool as error:
            if not stop.received:  # the signal may have gone to all processes
                raise WorkerError(
                    "a worker ended abruptly, perhaps for want of memory. What is done is kept: "
                    "run the same command again, with fewer --workers or --lanes."
                ) from error
        if stop.received:
            raise Interrupted(stop.received)


def _pool(
    study: Study, work: Sequence[tuple[Piece, ...]], num_workers: int, stop: Any
) -> Iterator[list[Record]]:
    context = multiprocessing.get_context("spawn")
    numbers = context.SimpleQueue()
    for number in range(num_workers):
        numbers.put(number)
    with (
        _one_thread_each(),
        concurrent.futures.ProcessPoolExecutor(
            num_workers, mp_context=context, initializer=_begin, initargs=(numbers,)
        ) as pool,
    ):
        # Few at a time, so that an interrupt finds little begun.
        waiting, running = list(reversed(work)), set()
        while running or (waiting and not stop.received):
            while waiting and len(running) < num_workers and not stop.received:
                running.add(pool.submit(do, study, waiting.pop()))
            finished, running = concurrent.futures.wait(
                running, timeout=1, return_when=concurrent.futures.FIRST_COMPLETED
            )
            yield from (each.result() for each in finished)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Child processes that use one core each, rather than all of them against each other."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
    wanted = {"XLA_FLAGS": flags, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "NPROC": "1"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _begin(numbers: Any) -> None:
    """In a new process: leave Ctrl-C to the first one, and take one GPU, or else one core."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    number = numbers.get()
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    cards = listed.split(",") if listed else [str(i) for i in range(len(_cards()))]
    if cards:
        os.environ["CUDA_VISIBLE_DEVICES"] = cards[number % len(cards)]
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # several may share one
    elif hasattr(os, "sched_setaffinity"):  # XLA's threads wait for each other at a cost
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})


def _cards() -> list[Path]:
    return list(Path("/proc/driver/nvidia/gpus").glob("*"))


def do(study: Study, job: tuple[Piece, ...]) -> list[Record]:
    """Train the runs of a job.

    Args:
        study: What the runs have in common.
        job: Runs of one arm; as many as there are lanes, or fewer.

    Returns:
        A record per run, with what it is.
    """
    protocol, first = PROTOCOLS[study.protocol], job[0]
    [arm] = [
        arm for arm in protocol.arms_of(first.scenario, first.optimizer) if arm.name == first.arm
    ]
    data, validation = _material(study)
    # Lanes that miss repeat the last run: one compiled shape.
    filled = job + job[-1:] * (study.lanes - len(job))
    records, _ = train(
        program(study, first.scenario, arm.optimizer or first.optimizer),
        arm,
        rates=[piece.rate for piece in filled],
        seeds=tuple(piece.seed for piece in filled),
        test=validation if first.seed in protocol.tuning_seeds else data,
    )
    return [
        dict(zip(NAMES, piece, strict=True)) | record
        for piece, record in zip(job, records[: len(job)], strict=True)
    ]


@functools.lru_cache(maxsize=1)
def _material(study: Study):
    return material(study.dataset, study.data_dir, PROTOCOLS[study.protocol])


@functools.lru_cache(maxsize=1)
def _setting(study: Study, scenario: Scenario) -> Setting:
    jax.clear_caches()  # the last scenario's programs
    return Setting(scenario, _material(study)[0], PROTOCOLS[study.protocol])


@functools.lru_cache(maxsize=4)
def program(study: Study, scenario: Scenario, optimizer: str) -> Program:
    """The compiled steps of a scenario with an optimizer; those of one scenario are kept."""
    return Program(_setting(study, scenario), optimizer, study.lanes)
