"""Killed and interrupted runs end with the very metrics of an undisturbed one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.compilation import UNOPTIMIZED_PROCESS

ROOT = Path(__file__).parents[2]
OPTIONS = ["--scenario", "hourglass", "--epochs", "4", "--seeds", "1", "--overhead-steps", "0"]
OPTIONS += ["--arms", "plain", "with_pfn", "--every", "5", "--checkpoint-seconds", "0.5"]


def start(folder: Path, cache: Path) -> subprocess.Popen:
    environment = (
        os.environ
        | UNOPTIMIZED_PROCESS
        | {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(ROOT),
        }
    )
    command = [sys.executable, "-m", "experiments", "pfn", *OPTIONS, "--run-dir", str(folder)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def metrics(folder: Path) -> dict[str, bytes]:
    files = {str(file.relative_to(folder)): file for file in folder.glob("*/seed-0/metrics.jsonl")}
    return {name: file.read_bytes() for name, file in files.items()}


def wait_for(process: subprocess.Popen, folder: Path, num_bytes: int) -> None:
    """Wait until so much has been reported, or the run is over."""
    while process.poll() is None:
        if sum(map(len, metrics(folder).values())) >= num_bytes:
            return
        time.sleep(0.005)


@pytest.mark.slow
def test_kills_and_interrupts_leave_no_trace(tmp_path):
    cache = tmp_path / "cache"
    undisturbed = start(tmp_path / "undisturbed", cache)
    output, errors = undisturbed.communicate()
    assert undisturbed.returncode == 0, errors
    expected = metrics(tmp_path / "undisturbed")
    assert len(expected) == 2

    folder = tmp_path / "disturbed"
    rng = np.random.default_rng(0)
    first, second = (len(expected[f"{arm}/seed-0/metrics.jsonl"]) for arm in ("plain", "with_pfn"))
    kill, interrupt = rng.uniform(0.1, 0.9) * first, first + rng.uniform(0.1, 0.9) * second
    for kind, num_bytes in ((signal.SIGKILL, kill), (signal.SIGINT, interrupt)):
        process = start(folder, cache)
        wait_for(process, folder, int(num_bytes))
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(kind)
        _, errors = process.communicate()
        if kind is signal.SIGINT and process.returncode == 130:
            assert "Run the same command again" in errors
        assert process.returncode != 0

    last = start(folder, cache)
    resumed_output, errors = last.communicate()
    assert last.returncode == 0, errors
    assert metrics(folder) == expected
    for name in expected:
        assert len(list((folder / name).parent.glob("events.out.tfevents.*"))) == 1
    tables = [text.split("\n\nplots:")[0] for text in (output, resumed_output)]
    assert tables[0] == tables[1]
