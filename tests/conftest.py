"""Fixtures that every test shares."""

import gc
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import pytest

from pfn_optax.precision import double_precision

# Compilation makes the first example slow and says nothing about the code: no deadline.
hypothesis.settings.register_profile("default", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.load_profile("default")


def pytest_collection_modifyitems(items):
    """Long tests first: at the end one worker would be left alone with one of them."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


# Tracing makes many objects that live for a while; the default, 700, has each looked at often.
gc.set_threshold(20_000, 10, 10)


def pytest_collection_finish():
    """What is imported stays: the garbage collector need not look through it again and again."""
    gc.collect()
    gc.freeze()


# Linux gives a process 65,530 memory maps, and each compiled program takes a few: thousands of
# programs later, compilation aborts.
MANY_MAPS = 20_000


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Drops compiled programs between modules, once there are many."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MANY_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="module")
def unoptimized():
    """Compiles without optimising: for modules of many small programs, each run a few times."""
    from tests.compilation import short_code_everywhere

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    with short_code_everywhere():
        yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def x64():
    """Runs a test in float64."""
    with double_precision():
        yield


@pytest.fixture
def strict():
    """Refuses implicit dtype and rank promotion, as careful users' own tests do."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
