"""Parameters sharded over eight devices: the same numbers, one all-reduce, nothing gathered."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compilation import UNOPTIMIZED_PROCESS

ROOT = Path(__file__).parent.parent
GRAPHS, SPECS = ("chain", "traced", "units"), ("fsdp", "tensor")
WINDOWED = [f"{graph} {spec}" for graph in GRAPHS for spec in SPECS] + ["around adam fsdp"]
EVERY_STEP, RENORMALIZED = "every step fsdp", "renormalized tensor"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cases():
    """What `tests/sharded.py` measured, by case."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.sharded"],
        cwd=ROOT,
        env=os.environ | UNOPTIMIZED_PROCESS | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", [*WINDOWED, EVERY_STEP, RENORMALIZED])
def test_sharded_equals_one_device(cases, name):
    case = cases[name]
    assert case["difference"] < 1e-6
    assert case["same_cut"]
    assert case["cut"] > 0
    assert case["diagnoses"] == 2


@pytest.mark.parametrize("name", WINDOWED)
def test_nothing_is_exchanged_but_when_measuring(cases, name):
    """With `ema_window` most steps only multiply what each device holds."""
    found = cases[name]["collectives"]
    assert found["step"] == []
    assert_one_small_all_reduce(found["measurement"])


def test_measuring_every_step_is_one_all_reduce(cases):
    """And a diagnosis by gradient norms exchanges nothing more: they are replicated by then."""
    found = cases[EVERY_STEP]["collectives"]
    assert_one_small_all_reduce(found["step"])
    assert found["measurement"] == found["diagnosis"] == []


def test_keeping_the_norm_is_one_more_all_reduce_in_every_step(cases):
    found = cases[RENORMALIZED]["collectives"]
    assert_one_small_all_reduce(found["step"])
    assert_one_small_all_reduce(found["measurement"])


@pytest.mark.parametrize("name", WINDOWED)
def test_ranks_need_the_whole_matrix_in_a_diagnosis(cases, name):
    """Either the matrix or its Gram matrix travels, and only when a diagnosis is due."""
    found = cases[name]["collectives"]["diagnosis"]
    assert max(map(num_entries, found)) >= 64 * 64
    assert {collective.split()[0] for collective in found} <= {"all-reduce", "all-gather"}


def assert_one_small_all_reduce(found: list[str]) -> None:
    [collective] = found
    assert collective.startswith("all-reduce ")
    # Sums per unit or per pair of chunks: the smallest kernel has 64 x 128 entries.
    assert num_entries(collective) < 64 * 64


def num_entries(collective: str) -> int:
    total = 0
    for shape in re.findall(r"\[([\d,]*)\]", collective):
        entries = 1
        for size in filter(None, shape.split(",")):
            entries *= int(size)
        total += entries
    return total
