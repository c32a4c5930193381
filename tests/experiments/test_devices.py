"""Runs over several devices and processes: one process's numbers, also after a kill."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from experiments.checkpoints import Checkpoints, Position
from experiments.devices import Devices, connect
from experiments.errors import UsageError
from pfn_optax import with_pfn
from tests.compilation import UNOPTIMIZED_PROCESS
from tests.trees import dense

ROOT = Path(__file__).parents[2]
OPTIONS = ["--scenario", "hourglass", "--epochs", "2", "--seeds", "1", "--overhead-steps", "0"]
OPTIONS += ["--arms", "with_pfn", "--every", "5", "--checkpoint-seconds", "0.5"]
NUM_RECORDS = 8 + 2  # diagnoses in 44 steps, and epochs


def start(module: str, *arguments: object, cache: Path | None = None) -> subprocess.Popen:
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    if cache is not None:
        environment |= UNOPTIMIZED_PROCESS
        environment["JAX_COMPILATION_CACHE_DIR"] = str(cache)
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(folder: Path, log: Path, cache: Path) -> list[subprocess.Popen]:
    """Both processes of one job, on a port that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    job = ["pfn", *OPTIONS, "--run-dir", folder, "--coordinator", address, "--num-processes", 2]
    return [
        start("tests.experiments.process", log, *job, "--process-id", number, cache=cache)
        for number in (0, 1)
    ]


def by_step(file: Path) -> dict[tuple[str, int], dict]:
    """The metrics in a file by kind and step; of what was computed twice, the last."""
    records = map(json.loads, file.read_text().splitlines())
    return {(each["kind"], each["step"]): each for each in records if "kind" in each}


@pytest.mark.slow
def test_killed_job_of_two_processes_ends_with_one_process_numbers(tmp_path):
    cache, folder, log = tmp_path / "cache", tmp_path / "two", tmp_path / "second.jsonl"
    metrics = Path("with_pfn", "seed-0", "metrics.jsonl")
    alone = start(
        "experiments", "pfn", *OPTIONS, "--devices", 2, "--run-dir", tmp_path / "one", cache=cache
    )
    processes = start_two(folder, log, cache)
    try:
        written = folder / metrics
        while processes[0].poll() is None:
            if written.exists() and written.read_bytes().count(b"\n") >= NUM_RECORDS / 2:
                break
            time.sleep(0.01)
        processes[0].send_signal(signal.SIGKILL)
        processes[1].communicate(timeout=120)
        assert processes[1].returncode != 0  # it cannot go on alone, and does not hang
        assert alone.wait() == 0, alone.communicate()
        expected = (tmp_path / "one" / metrics).read_bytes()
        assert written.read_bytes() != expected
        assert list((written.parent / "checkpoints").iterdir())

        processes += start_two(folder, log, cache)
        for process in processes[2:]:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
    finally:
        for process in (alone, *processes):
            process.kill()
            process.communicate()
    assert written.read_bytes() == expected
    assert by_step(log) == by_step(written)  # both processes saw these losses and cuts
    assert len(by_step(log)) == NUM_RECORDS


def test_checkpoint_of_eight_devices_is_restored_on_two_and_one(tmp_path):
    process = start("tests.experiments.eight_devices", tmp_path)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert output.split() == ["2"]

    params = dense(1, 16, 32, 8)
    like = {"params": params, "opt_state": with_pfn(optax.adam(0.1)).init(params)}
    with Checkpoints(tmp_path) as checkpoints:
        restored, position = checkpoints.restore(like) or (None, None)
    assert restored is not None
    assert position == Position(epoch=1)
    jax.tree.map(np.testing.assert_array_equal, restored["params"], dense(0, 16, 32, 8))
    assert {leaf.device for leaf in jax.tree.leaves(restored)} == {jax.devices()[0]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": 0}, "devices must be at least 1; got 0"),
        ({"coordinator": "127.0.0.1:1"}, "missing: num_processes, process_id"),
        ({"process_id": 0, "num_processes": 2}, "missing: coordinator"),
        (
            {"coordinator": "127.0.0.1:1", "num_processes": 2, "process_id": 2},
            r"process_id must be in \[0, 2\), one for each process; got 2",
        ),
    ],
)
def test_options_that_do_not_fit(options, message):
    none = dict.fromkeys(("devices", "coordinator", "num_processes", "process_id"))
    with pytest.raises(UsageError, match=message):
        connect(**none | options)


def test_more_devices_than_there_are():
    with pytest.raises(UsageError, match=r"at most the \d+ cpu devices of process 0; got 999"):
        Devices(999)
