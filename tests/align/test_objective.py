"""Distances by their formulas, and what cannot be compared."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax.align import align, distance
from pfn_optax.units import Group, UnitSpec, UnitSpecError
from tests.align.networks import mlp, mlp_spec

SIZES = (5, 4, 3, 2)
SPEC = mlp_spec(SIZES)


def pair():
    return mlp(SIZES, 0), mlp(SIZES, 1)


def test_weights_by_path():
    a, b = pair()
    own = {
        (layer, name): float(np.sum((a[layer][name] - b[layer][name]) ** 2))
        for layer in a
        for name in a[layer]
    }
    expected = sum(own.values()) + 2 * own["l0", "w"] - own["l1", "b"]
    weights = {"l0/w": 3.0, ("l1", "b"): 0.0}
    assert distance(a, b, objective=weights) == pytest.approx(expected)
    alignment = align(a, b, SPEC, objective=weights)
    assert alignment.before == pytest.approx(expected)
    assert alignment.after < expected


def test_a_weight_decides_the_match():
    a, b = pair()
    found = [
        align(a, b, SPEC, objective={"l0/w": w, "l0/b": w, "l1/w": 1 - w}).permutations["l0"]
        for w in (0, 1)
    ]
    assert not np.array_equal(*found)


def test_standardised_does_not_see_affine_maps_of_a_leaf():
    a, b = pair()
    moved = {**b, "l0": {**b["l0"], "w": 7 * b["l0"]["w"] - 3}}
    assert distance(a, moved, objective="standardised") == pytest.approx(
        distance(a, b, objective="standardised")
    )


@pytest.mark.parametrize("value", [0.0, 0.1, 1e300])
def test_standardised_constants_are_zeros(value):
    a = {"w": np.full((7,), value), "one": np.array([value])}
    b = {"w": np.arange(7.0), "one": np.array([2.0])}
    assert distance(a, b, objective="standardised") == pytest.approx(6 / 7)


def test_bad_trees():
    a, b = pair()
    nan = {**b, "l1": {**b["l1"], "b": np.array([0, np.nan, 0])}}
    with pytest.raises(ValueError, match="b/l1/b has NaN entries"):
        align(a, nan, SPEC)
    with pytest.raises(ValueError, match="a/l1/b has infinite entries"):
        align({**b, "l1": {**b["l1"], "b": np.array([0, np.inf, 0])}}, b, SPEC)
    complex_ = {**b, "l1": {**b["l1"], "b": np.ones(3, complex)}}
    with pytest.raises(ValueError, match="b/l1/b is complex"):
        align(a, complex_, SPEC)
    with pytest.raises(ValueError, match=r"leaf 'l2/b' has shape \(2,\) in a and is missing in b"):
        align(a, {**b, "l2": {"w": b["l2"]["w"]}}, SPEC)
    with pytest.raises(ValueError, match=r"'more' is missing in a and has shape \(1,\) in b"):
        align(a, {**b, "more": np.ones(1)}, SPEC)
    with pytest.raises(ValueError, match=r"'l0/b' has shape \(6,\), the spec was made for"):
        align(mlp((5, 6, 3, 2), 0), mlp((5, 6, 3, 2), 1), SPEC)
    with pytest.raises(ValueError, match="a/l0/b has no values here"):
        align(jax.eval_shape(lambda: a), b, SPEC)
    with pytest.raises(ValueError, match="has no values here: networks are matched on the host"):
        jax.jit(lambda a: distance(a, b))(a)


def test_bad_options():
    a, b = pair()
    for name in ("beam_width", "restarts", "max_sweeps"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            align(a, b, SPEC, **{name: 0})
    with pytest.raises(ValueError, match=r"method must be one of 'greedy', .* got 'hungarian'"):
        align(a, b, SPEC, method="hungarian")
    with pytest.raises(ValueError, match=r"objective must be one of 'squared', .* got 'cosine'"):
        align(a, b, SPEC, objective="cosine")
    with pytest.raises(ValueError, match="there is no leaf 'l9/w' among l0/b, l0/w"):
        align(a, b, SPEC, objective={"l9/w": 1.0})
    with pytest.raises(ValueError, match="weight of 'l0/w' must be finite and not negative"):
        align(a, b, SPEC, objective={"l0/w": -1.0})


def predict(params, x):
    for layer in range(2):
        x = jax.nn.relu(x @ params[f"l{layer}"]["w"] + params[f"l{layer}"]["b"])
    return x @ params["l2"]["w"] + params["l2"]["b"]


def test_a_wrong_spec_is_refused_by_a_check():
    a, b = pair()
    x = jnp.ones((3, 5))
    assert align(a, b, SPEC, check=(predict, x)).after < distance(a, b)
    first, second = SPEC.groups
    lacking = Group("l1", 3, tuple(m for m in second.members if m.path != ("l1", "b")))
    wrong = UnitSpec((first, lacking), SPEC.leaves)
    assert align(a, b, wrong).after < distance(a, b)  # unnoticed
    with pytest.raises(UnitSpecError, match=r"permuting group 'l1' .* It lacks l1/b axis 0"):
        align(a, b, wrong, check=(predict, x))
