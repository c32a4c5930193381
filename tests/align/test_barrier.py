"""Barriers in closed form, over the data as one batch, and before and after a permutation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfn_optax.align import align, interpolate, loss_barrier
from tests.align.relu_networks import inputs, logits, mlp, mlp_spec, split

A = {"w": jnp.asarray([1.0, -2.0, 0.5])}
B = {"w": jnp.asarray([0.0, 1.0, 2.5])}


def squared_distance(model, x):
    return ((model["w"] - x) ** 2).sum(-1).mean(), {"first": x[:, 0].mean() + model["w"][0]}


def test_a_quadratic_loss_sags_by_a_parabola_over_all_examples():
    x = inputs(0, 23, 3) * jnp.arange(1, 24)[:, None]  # batches with very different means
    curves = loss_barrier(
        squared_distance, A, B, {"train": split(x, 10, 10), "test": split(x[:5])}, num_points=11
    )
    gap = np.square(np.asarray(A["w"]) - np.asarray(B["w"])).sum()
    for name, data in (("train", x), ("test", x[:5])):
        curve, data = curves[name], np.asarray(data, np.float64)
        t = curve.points
        w = (1 - t)[:, None] * np.asarray(A["w"]) + t[:, None] * np.asarray(B["w"])
        expected = np.square(w[:, None] - data).sum(-1).mean(1)
        np.testing.assert_allclose(curve.losses, expected, rtol=1e-5)
        np.testing.assert_allclose(curve.excess, -t * (1 - t) * gap, atol=1e-5 * expected.max())
        np.testing.assert_allclose(curve.metrics["first"], data[:, 0].mean() + w[:, 0], atol=1e-4)
        assert curve.barrier == 0
        assert curve.highest in (0, 1)


def test_chunks_change_nothing():
    batches = {"train": split(inputs(1, 9, 3), 4)}
    one, *others = (
        loss_barrier(squared_distance, A, B, batches, num_points=7, chunk_size=size)["train"]
        for size in (1, 3, 7, 100)
    )
    for other in others:
        np.testing.assert_allclose(other.losses, one.losses, rtol=1e-6)
        np.testing.assert_allclose(other.metrics["first"], one.metrics["first"], rtol=1e-5)
        assert other.losses.shape == one.points.shape == (7,)


def test_a_correction_is_applied_at_every_point():
    seen = []

    def correction(model, t):
        seen.append(t)
        expected = interpolate(A, B, t)["w"]
        np.testing.assert_allclose(model["w"], expected, rtol=1e-6)
        return {"w": model["w"] + t}

    batches = {"train": split(inputs(1, 9, 3))}
    corrected = loss_barrier(
        squared_distance, A, B, batches, num_points=5, correction=correction, chunk_size=2
    )["train"]
    shifted = loss_barrier(squared_distance, A, {"w": B["w"] + 1}, batches, num_points=5)["train"]
    np.testing.assert_allclose(corrected.losses, shifted.losses, rtol=1e-6)
    assert sorted({*seen}) == [0, 0.25, 0.5, 0.75, 1]


def cross_entropy(model, x, labels):
    scores = logits(model, x)
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
    return losses.mean(), {"accuracy": (scores.argmax(-1) == labels).mean()}


def test_a_permuted_copy_has_a_barrier_until_it_is_put_back():
    a = jax.tree.map(lambda leaf: 3 * leaf, mlp(0))
    draw = np.random.default_rng(3)
    permutations = {group.name: draw.permutation(group.size) for group in mlp_spec().groups}
    b = mlp_spec().permute(a, permutations)
    alignment = align(a, b, mlp_spec())
    for name, permutation in permutations.items():
        np.testing.assert_array_equal(alignment.permutations[name], np.argsort(permutation))
    x = inputs(2)
    batches = {"train": [(x, logits(a, x).argmax(-1))]}
    before, after = (
        loss_barrier(cross_entropy, a, other, batches, num_points=9)["train"]
        for other in (b, alignment.params)
    )
    assert before.losses[0] == pytest.approx(before.losses[-1], rel=1e-5)
    assert before.barrier > 0.1
    assert 0 < before.highest < 1
    assert before.metrics["accuracy"][0] == before.metrics["accuracy"][-1] == 1
    assert before.metrics["accuracy"].min() < 0.9
    assert after.barrier < 1e-6
    assert (after.metrics["accuracy"] == 1).all()


def test_a_bar_is_shown_when_asked_for(capfd):
    batches = {"train": split(inputs(1, 9, 3))}
    loss_barrier(squared_distance, A, B, batches, num_points=3)
    assert capfd.readouterr().err == ""
    loss_barrier(squared_distance, A, B, batches, num_points=3, progress=True)
    assert "3/3" in capfd.readouterr().err


X = split(inputs(1, 9, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_points": 1}, "num_points must be at least 2; got 1"),
        ({"chunk_size": 0}, "chunk_size must be at least 1; got 0"),
        ({"batches": {}}, "at least one data set"),
        ({"batches": {"test": []}}, r"batches\['test'\] is empty"),
        ({"batches": {"test": iter(X)}}, r"batches\['test'\] is an iterator"),
        ({"b": {"w": jnp.ones(4)}}, r"'w' has shape \(3,\) in model 0"),
        ({"loss": lambda model, x: x.sum(-1)}, r"the loss has shape \(9,\)"),
        ({"loss": lambda model, x: (x.sum(), {"accuracy": x})}, "accuracy has shape"),
    ],
)
def test_bad_input_is_named(options, message):
    options = {"loss": squared_distance, "a": A, "b": B, "batches": {"train": X}} | options
    with pytest.raises(ValueError, match=message):
        loss_barrier(**options)
