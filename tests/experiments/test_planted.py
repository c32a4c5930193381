"""Planted bottlenecks are what they are said to be, and the default capacity names them."""

import numpy as np
import pytest

from experiments.planted import BATCH_SIZE, KINDS, NUM_BATCHES, digit_batches, named_layers, plant


def kernels(params):
    return {name: np.asarray(layer["kernel"], np.float64) for name, layer in params.items()}


@pytest.mark.parametrize("seed", range(3))
def test_the_plant_is_in_the_layer_that_is_the_answer(seed):
    healthy = kernels(plant("healthy", seed)[0])
    assert all(np.linalg.matrix_rank(kernel) == min(kernel.shape) for kernel in healthy.values())

    params, answers = plant("rank one", seed)
    ranks = {name: np.linalg.matrix_rank(k, tol=1e-4) for name, k in kernels(params).items()}
    assert {name for name, rank in ranks.items() if rank == 1} == answers

    params, answers = plant("narrow", seed)
    assert {name for name, k in kernels(params).items() if min(k.shape) == 4} == answers

    params, answers = plant("starved", seed)
    norms = {name: np.linalg.norm(kernel, axis=0) for name, kernel in kernels(params).items()}
    assert {name for name, n in norms.items() if np.sum(n < 0.01 * n.max()) == 56} == answers

    params, answers = plant("scaled", seed)
    sizes = {name: kernel.std() for name, kernel in kernels(params).items()}
    assert {min(sizes, key=lambda name: sizes[name])} == answers


def test_batches_are_real_digits():
    images, labels = digit_batches()
    assert images.shape == (NUM_BATCHES, BATCH_SIZE, 64)
    assert set(np.unique(labels)) == set(range(10))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "scaled"])
def test_the_default_capacity_names_them(kind):
    cases = [plant(kind, seed) for seed in range(3)]
    named = named_layers("jacobian_rank", [case[0] for case in cases], digit_batches(), 16)
    assert all(layers and layers <= case[1] for layers, case in zip(named, cases, strict=True))
