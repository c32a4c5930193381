"""Aligned networks: planted permutations, brute force, identities."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfn_optax.align import AlignmentStatus, align, distance
from pfn_optax.align.beam import Partial, children, order_of
from pfn_optax.align.blocks import Matching
from pfn_optax.units import unit_spec
from tests.align.networks import (
    mlp,
    mlp_output,
    mlp_spec,
    optimum,
    random_permutations,
    recurrent,
    recurrent_spec,
    zoo,
)

pytestmark = pytest.mark.usefixtures("unoptimized")

SIZES = (5, 4, 3, 2)
SPEC = mlp_spec(SIZES)
METHODS = ["greedy", "beam", "coordinate"]
SEEDS = st.integers(0, 10**6)


def assert_same_trees(left, right, **tolerance):
    for x, y in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "densenet", "gru", "elman", "unet"])
def test_a_planted_permutation_is_found(name, method):
    spec, a, *_ = zoo(name)
    planted = random_permutations(spec, 2)
    b = spec.permute(a, planted)
    alignment = align(a, b, spec, method=method, beam_width=2, restarts=3)
    assert_same_trees(alignment.params, a, rtol=0)
    assert alignment.after == 0 < alignment.before
    for group, permutation in alignment.permutations.items():
        np.testing.assert_array_equal(permutation, np.argsort(planted[group]))


@pytest.mark.parametrize("method", ["beam", "coordinate"])
def test_heads_and_their_entries_are_found(method):
    """Greedy cannot: which head is which shows only once their entries are matched."""
    spec, a, *_ = zoo("transformer")
    b = spec.permute(a, random_permutations(spec, 1))
    assert align(a, b, spec, method=method, restarts=3).after == 0


@pytest.mark.parametrize("objective", ["squared", "standardised"])
@pytest.mark.parametrize("method", METHODS)
def test_the_function_stays(method, objective):
    a, b = mlp(SIZES, 0), mlp(SIZES, 1)
    alignment = align(a, b, SPEC, method=method, objective=objective, rescale=True)
    x = np.random.default_rng(2).standard_normal((20, SIZES[0]))
    expected = mlp_output(b, x)
    np.testing.assert_allclose(
        mlp_output(alignment.params, x), expected, rtol=0, atol=1e-10 * np.abs(expected).max()
    )
    assert_same_trees(alignment.apply(b), alignment.params, rtol=0)
    np.testing.assert_allclose(
        mlp_output(alignment.apply(b), x), expected, atol=1e-10 * np.abs(expected).max()
    )


@given(seed=SEEDS)
def test_a_network_is_aligned_to_itself(seed):
    a = mlp(SIZES, seed)
    for method in METHODS:
        alignment = align(a, a, SPEC, method=method)
        assert alignment.after == 0
        for permutation in alignment.permutations.values():
            np.testing.assert_array_equal(permutation, np.arange(len(permutation)))


def standardised_distance(a, b):
    total = 0.0
    for layer, leaves in a.items():
        for name, left in leaves.items():
            right = b[layer][name]
            left, right = ((x - x.mean()) / x.std(ddof=1) for x in (left, right))
            total += ((left - right) ** 2).mean()
    return total


@given(seed=SEEDS)
def test_before_and_after_are_the_objective(seed):
    a, b = mlp(SIZES, seed), mlp(SIZES, seed + 1)
    for method in METHODS:
        alignment = align(a, b, SPEC, method=method, objective="standardised")
        assert alignment.before == pytest.approx(standardised_distance(a, b))
        assert alignment.after == pytest.approx(standardised_distance(a, alignment.params))
        assert alignment.trace[-1] == pytest.approx(alignment.after)
        assert_same_trees(SPEC.permute(b, alignment.permutations), alignment.params, rtol=0)


@given(seed=SEEDS)
@settings(max_examples=10)
def test_never_below_the_optimum_and_a_wide_beam_reaches_it(seed):
    a, b = mlp(SIZES, seed), mlp(SIZES, seed + 1)
    best = optimum(a, b, SPEC)
    found = {
        "one descent": align(a, b, SPEC),
        "restarts": align(a, b, SPEC, restarts=20),
        "beam": align(a, b, SPEC, method="beam", beam_width=24 * 6),  # all there are
    }
    for alignment in found.values():
        assert alignment.after >= best - 1e-9
    assert found["beam"].after == pytest.approx(best)
    assert found["restarts"].after <= found["one descent"].after


@given(seed=SEEDS)
@settings(max_examples=15)
def test_a_local_optimum_cannot_be_improved_by_one_group(seed):
    a, b = mlp(SIZES, seed), mlp(SIZES, seed + 1)
    alignment = align(a, b, SPEC)
    assert alignment.status is AlignmentStatus.CONVERGED
    for group in SPEC.groups:
        for order in itertools.permutations(range(group.size)):
            other = SPEC.permute(alignment.params, {group.name: order})
            assert distance(a, other) >= alignment.after - 1e-9


@given(seed=SEEDS)
@settings(max_examples=25)
def test_the_objective_never_rises(seed):
    sizes = (3, 7, 8, 6, 5, 2)
    a, b = mlp(sizes, seed), mlp(sizes, seed + 1)
    for method in ("coordinate", "beam"):
        alignment = align(a, b, mlp_spec(sizes), method=method, restarts=3, beam_width=3)
        assert all(x >= y for x, y in itertools.pairwise(alignment.trace))
    assert align(a, b, mlp_spec(sizes)).trace[0] == pytest.approx(alignment.before)


@given(seed=SEEDS)
@settings(max_examples=15)
def test_a_wider_beam_is_never_worse(seed):
    sizes = (3, 6, 5, 6, 2)
    a, b = mlp(sizes, seed), mlp(sizes, seed + 1)
    after = [
        align(a, b, mlp_spec(sizes), method="beam", beam_width=width).after for width in range(1, 9)
    ]
    assert all(x >= y for x, y in itertools.pairwise(after))


def test_a_wider_beam_is_better_somewhere():
    sizes = (3, 6, 5, 6, 2)
    a, b = mlp(sizes, 5), mlp(sizes, 6)
    narrow, wide = (
        align(a, b, mlp_spec(sizes), method="beam", beam_width=width).after for width in (1, 30)
    )
    assert wide < narrow


@given(seed=SEEDS)
@settings(max_examples=15)
def test_how_b_was_permuted_before_does_not_matter(seed):
    a, b = mlp(SIZES, seed), mlp(SIZES, seed + 1)
    other = SPEC.permute(b, random_permutations(SPEC, seed))
    for method in ("greedy", "beam"):
        one, two = (align(a, start, SPEC, method=method) for start in (b, other))
        assert one.after == pytest.approx(two.after)
        assert_same_trees(one.params, two.params, rtol=0)


@given(seed=SEEDS)
@settings(max_examples=25)
def test_a_square_matrix_is_held_at_one_of_its_axes(seed):
    spec = recurrent_spec(4)
    a, b = recurrent(4, seed), recurrent(4, seed + 1)
    best = optimum(a, b, spec)
    for method in METHODS:
        alignment = align(a, b, spec, method=method, beam_width=24, restarts=5)
        assert best - 1e-9 <= alignment.after
        assert alignment.trace[-1] == pytest.approx(distance(a, alignment.params))
        if method != "greedy":
            assert all(x >= y - 1e-9 for x, y in itertools.pairwise(alignment.trace))
        if method == "beam":
            assert alignment.after == pytest.approx(best)


def test_greedy_follows_the_data_flow():
    spec, *_ = zoo("cnn")
    assert order_of(spec) == ("0/Conv_0", "0/Conv_1", "0/Dense_0")
    spec, *_ = zoo("resnet")
    assert order_of(spec)[0] == "0/stem"
    assert order_of(spec)[-1] == "0/block1_0/projection"


def test_outgoing_weights_do_not_make_a_group_known():
    assert order_of(mlp_spec((2, 4, 3, 50))) == ("l0", "l1")


@pytest.mark.parametrize("spec_and_pair", ["square", "chain"])
def test_the_profit_of_a_full_alignment_is_its_inner_product(spec_and_pair):
    if spec_and_pair == "square":
        spec, a, b = recurrent_spec(4), recurrent(4, 0), recurrent(4, 1)
    else:
        spec, a, b = SPEC, mlp(SIZES, 0), mlp(SIZES, 1)
    matching = Matching(spec, a, b, np.float64)
    partial = Partial(0.0, {})
    for name in order_of(spec):
        *_, partial = itertools.islice(children(matching, name, partial), 3)
    gained = (matching.constant - distance(a, spec.permute(b, partial.permutations))) / 2
    assert partial.profit == pytest.approx(gained)


def test_greedy_is_one_assignment_per_layer():
    """Against the pass by hand: rows of [weights, bias], the outgoing ones where they are known."""
    from scipy.optimize import linear_sum_assignment

    a, b = mlp(SIZES, 0), mlp(SIZES, 1)
    previous, expected = np.arange(SIZES[0]), {}
    for layer in range(2):
        rows = [
            np.vstack([net[f"l{layer}"]["w"][order], net[f"l{layer}"]["b"]]).T
            for net, order in ((a, np.arange(len(previous))), (b, previous))
        ]
        if layer == 1:
            rows = [np.hstack([r, net["l2"]["w"]]) for r, net in zip(rows, (a, b), strict=True)]
        cost = ((rows[0][:, None] - rows[1][None]) ** 2).sum(axis=-1)
        previous = expected[f"l{layer}"] = linear_sum_assignment(cost)[1]
    alignment = align(a, b, SPEC, method="greedy")
    for name, permutation in expected.items():
        np.testing.assert_array_equal(alignment.permutations[name], permutation)
    assert alignment.status is AlignmentStatus.ONE_PASS
    assert len(alignment.trace) == 3


def test_few_rounds_stop_early():
    sizes = (2, 12, 12, 12, 12, 2)
    a, b = mlp(sizes, 0), mlp(sizes, 1)
    stopped, done = (align(a, b, mlp_spec(sizes), max_sweeps=n) for n in (1, 100))
    assert stopped.status is AlignmentStatus.STOPPED
    assert done.status is AlignmentStatus.CONVERGED
    assert len(stopped.trace) == 2
    assert done.after < stopped.after < stopped.before


def test_the_key_decides():
    sizes = (2, 12, 12, 12, 12, 2)
    a, b = mlp(sizes, 0), mlp(sizes, 1)
    results = [
        align(a, b, mlp_spec(sizes), key=key, restarts=2).after
        for key in (None, None, jax.random.key(1), jax.random.key(1), jax.random.key(2))
    ]
    assert results[0] == results[1]
    assert results[2] == results[3]
    assert len(set(results)) > 1


def test_arrays_of_jax_and_of_any_precision():
    a = jax.tree.map(jnp.asarray, mlp(SIZES, 0, np.float32))
    planted = random_permutations(SPEC, 0)
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        own = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), a)
        alignment = align(own, SPEC.permute(own, planted), SPEC)
        assert alignment.after == 0
        assert {leaf.dtype for leaf in jax.tree.leaves(alignment.params)} == {jnp.dtype(dtype)}


def test_leaves_without_weights_are_left_alone():
    def predict(params, x):
        return jnp.tanh(x @ params["in"]) @ params["out"]

    draw = np.random.default_rng(0)
    a = {
        "in": draw.standard_normal((3, 4)),
        "out": draw.standard_normal((4, 2)),
        "step": np.array(7),
        "key": jax.random.key(3),
    }
    spec = unit_spec(predict, {"in": a["in"], "out": a["out"]}, np.ones((1, 3)), check=False)
    b = spec.permute(a, {"in": [2, 0, 3, 1]})
    alignment = align(a, b, spec)
    assert alignment.after == 0
    assert alignment.params["step"] == 7


def test_zero_units_and_equal_units():
    """Ties: the objective is that of any order of them."""
    a = mlp(SIZES, 0)
    a["l0"]["w"][:, 1:3] = a["l0"]["b"][1:3] = a["l1"]["w"][1:3] = 0
    b = SPEC.permute(a, random_permutations(SPEC, 3))
    for method in METHODS:
        first, second = (align(a, b, SPEC, method=method, rescale=True) for _ in range(2))
        assert first.after == pytest.approx(0, abs=1e-12)
        assert_same_trees(first.params, second.params, rtol=0)
        assert_same_trees(first.params, a, rtol=1e-9)
