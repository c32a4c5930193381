"""Checkpoints return the very bits, and are whole or not there."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.checkpoints import Checkpoints, Position


def state_of(seed):
    params = {
        "layers": {i: {"kernel": jnp.full((2, 3), seed + i, jnp.float32)} for i in (0, 2, 10)}
    }
    return {"params": params, "opt": optax.adam(0.1).init(params), "step": jnp.int32(seed)}


def test_no_checkpoint(tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.restore(state_of(0)) is None


def test_newest_is_restored_bit_by_bit(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (3, 5, 9):
            checkpoints.save(step, state_of(step), Position(epoch=step, metrics_bytes=7))
        checkpoints.save(9, state_of(90), Position(epoch=10))  # the same step again
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(state_of(0))
    assert restored is not None
    state, position = restored
    assert position == Position(epoch=10)
    assert jax.tree.structure(state) == jax.tree.structure(state_of(0))
    jax.tree.map(np.testing.assert_array_equal, state, state_of(90))


def test_half_written_checkpoints_are_ignored(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state_of(3), Position(epoch=1))
    # What a process leaves behind that is killed before Orbax renames its folder.
    half = tmp_path / "7.orbax-checkpoint-tmp-0"
    shutil.copytree(tmp_path / "3", half)
    next(path for path in half.rglob("*") if path.is_file()).unlink()
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(state_of(0))
        assert restored is not None
        assert restored[1] == Position(epoch=1)
        checkpoints.save(7, state_of(7), Position(epoch=2))
        restored = checkpoints.restore(state_of(0))
    assert restored is not None
    assert restored[1] == Position(epoch=2)
