"""Balanced scales: their defining equation, and what does not matter to them."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfn_optax.align import align
from pfn_optax.align.objective import on_host
from pfn_optax.align.scales import balancing_scales
from tests.align.networks import mlp, mlp_spec, random_permutations, zoo

SIZES = (5, 4, 3, 2)
SPEC = mlp_spec(SIZES)


def random_scales(spec, seed):
    draw = np.random.default_rng(seed)
    return {g.name: draw.uniform(0.2, 5, g.size) for g in spec.groups if g.is_scalable}


def squared_norm(tree):
    return sum(float(np.sum(np.square(leaf))) for leaf in jax.tree.leaves(tree))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20)
def test_incoming_and_outgoing_weights_are_alike(seed):
    a = mlp(SIZES, seed)
    balanced = SPEC.rescale(a, balancing_scales(SPEC, a))
    for layer in range(2):
        own, following = balanced[f"l{layer}"], balanced[f"l{layer + 1}"]
        incoming = np.square(own["w"]).sum(axis=0) + np.square(own["b"])
        np.testing.assert_allclose(incoming, np.square(following["w"]).sum(axis=1), rtol=1e-8)


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "transformer", "vgg"])
def test_no_other_scales_have_smaller_weights(name):
    spec, a, *_ = zoo(name)
    a = on_host("a", a)
    balanced = spec.rescale(a, balancing_scales(spec, a))
    smallest = squared_norm(balanced)
    for seed in range(5):
        scales = random_scales(spec, seed)
        near = {group: scale**0.01 for group, scale in scales.items()}
        for other in (scales, near):
            assert squared_norm(spec.rescale(balanced, other)) >= smallest * (1 - 1e-12)
        assert scales


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
def test_rescaled_copies_have_one_balance(name):
    spec, a, *_ = zoo(name)
    a = on_host("a", a)
    other = spec.rescale(a, random_scales(spec, 0))
    one, two = (spec.rescale(tree, balancing_scales(spec, tree)) for tree in (a, other))
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-7)


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
def test_a_permuted_and_rescaled_copy_comes_back(name):
    spec, a, *_ = zoo(name)
    a = on_host("a", a)
    planted = random_permutations(spec, 2)
    b = spec.rescale(spec.permute(a, planted), random_scales(spec, 1))
    alignment = align(a, b, spec, rescale=True, restarts=3)
    for x, y in zip(jax.tree.leaves(alignment.params), jax.tree.leaves(a), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-7)
    assert {*alignment.scales} == {group.name for group in spec.groups if group.is_scalable}
    assert align(a, b, spec).scales == {}


def test_matching_at_balanced_scales_finds_what_raw_weights_hide():
    spec, a = mlp_spec((3, 32, 2)), mlp((3, 32, 2), 0)
    scales = {group: scale**3 for group, scale in random_scales(spec, 2).items()}
    b = spec.rescale(spec.permute(a, random_permutations(spec, 0)), scales)
    found = align(a, b, spec, rescale=True)
    assert found.after < 1e-12
    assert not np.array_equal(align(a, b, spec).permutations["l0"], found.permutations["l0"])


def test_units_of_zeros_keep_their_scale():
    a = mlp(SIZES, 0)
    a["l0"]["w"][:, 0] = a["l0"]["b"][0] = 0  # reads nothing
    a["l1"]["w"][1] = 0  # is read by nothing
    scales = balancing_scales(SPEC, a)
    assert scales["l0"][:2].tolist() == [1, 1]
    assert not np.isclose(scales["l0"][2:], 1).any()
