"""Wrong specs must be refused; permuting and rescaling are what they are said to be."""

import dataclasses
import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from pfn_optax.units import Group, Member, UnitSpec, UnitSpecError, check_spec, unit_spec

X = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)


def network(params, x):
    """Runs on arrays of NumPy as well."""
    h = x @ params["in"] + params["bias"]
    return (h * (h > 0)) @ params["out"]


def weights():
    """As they are at the start of training: a bias of zeros, a head of zeros."""
    draw = np.random.default_rng(0)
    return {
        "in": draw.normal(size=(3, 4)).astype(np.float32),
        "bias": np.zeros(4, np.float32),
        "out": np.zeros((4, 2), np.float32),
    }


SPEC = unit_spec(network, weights(), X, check=False)


def altered(change) -> UnitSpec:
    [group] = SPEC.groups
    members = tuple(filter(None, map(change, group.members)))
    return dataclasses.replace(SPEC, groups=(Group(group.name, group.size, members),))


def test_the_right_spec_passes():
    check_spec(SPEC, network, weights(), X)


@pytest.mark.parametrize("leaf", ["in", "bias", "out"])
def test_a_member_that_is_missing_is_named(leaf):
    """Even where the leaf is all zeros, as biases and heads are at first."""
    spec = altered(lambda member: None if member.path == (leaf,) else member)
    with pytest.raises(UnitSpecError, match=rf"permuting group 'in' .* It lacks {leaf} axis"):
        check_spec(spec, network, weights(), X)


def test_a_member_that_is_wrong_is_named():
    square = {**weights(), "out": np.ones((4, 4), np.float32)}
    spec = unit_spec(network, square, X)
    [group] = spec.groups
    members = tuple(m._replace(axis=1) if m.path == ("out",) else m for m in group.members)
    wrong = dataclasses.replace(spec, groups=(Group("in", 4, members),))
    with pytest.raises(UnitSpecError, match=r"lacks out axis 0\. These are not in it: out axis 1"):
        check_spec(wrong, network, square, X)


def test_a_wrong_exponent_is_refused():
    spec = altered(
        lambda member: member._replace(exponent=0) if member.path == ("bias",) else member
    )
    message = r"rescaling group 'in' .* is not: bias axis 0 has exponent 0, tracing finds 1\.$"
    with pytest.raises(UnitSpecError, match=message):
        check_spec(spec, network, weights(), X)


def test_only_the_wrong_one_of_several_groups_is_named():
    def deep(params, x):
        h = jnp.tanh(x @ params["a"]) @ params["b"]
        return jnp.tanh(h) @ params["c"]

    params = {"a": np.ones((3, 4)), "b": np.ones((4, 5)), "c": np.ones((5, 2))}
    spec = unit_spec(deep, params, X, check=False)
    wrong = spec.group("b")
    wrong = dataclasses.replace(wrong, members=wrong.members[:1])
    spec = dataclasses.replace(spec, groups=(spec.group("a"), wrong))
    with pytest.raises(UnitSpecError, match=r"permuting group 'b' \(b axis 1\)"):
        check_spec(spec, deep, params, X)


def test_low_precision_is_held_to_half_of_its_digits():
    def half(params, x):
        cast = {name: jnp.asarray(leaf, jnp.bfloat16) for name, leaf in params.items()}
        return network(cast, jnp.asarray(x, jnp.bfloat16))

    spec = unit_spec(half, weights(), X)
    assert [group.size for group in spec.groups] == [4]
    with pytest.raises(UnitSpecError, match="lacks out axis 0"):
        check_spec(altered(lambda m: None if m.path == ("out",) else m), half, weights(), X)


def test_a_function_that_insists_on_its_dtypes_is_checked_in_them():
    def strict(params, x):
        carry = jnp.zeros((2, 4), jnp.float32)
        step = lambda h, _: (jnp.tanh(x @ params["in"] + h @ params["again"]), None)  # noqa: E731
        return jax.lax.scan(step, carry, length=2)[0] @ params["out"]

    params = {**weights(), "again": np.ones((4, 4), np.float32)}
    spec = unit_spec(strict, params, X)
    wrong = dataclasses.replace(spec, groups=(Group("in", 4, spec.groups[0].members[:-1]),))
    with pytest.raises(UnitSpecError, match="It lacks out axis 0"):
        check_spec(wrong, strict, params, X)


def test_numbers_must_be_numbers():
    bad = {**weights(), "bias": np.asarray([0, np.nan, 0, 0], np.float32)}
    with pytest.raises(ValueError, match="params/bias has NaN entries"):
        unit_spec(network, bad, X)
    assert unit_spec(network, bad, X, check=False) == SPEC
    with pytest.raises(ValueError, match="argument 1 has NaN"):
        unit_spec(network, weights(), X * np.nan)
    with pytest.raises(UnitSpecError, match="not finite at random parameters"):
        unit_spec(lambda p, x: jnp.log(-jnp.square(network(p, x)) - 1), weights(), X)


def test_masks_may_be_infinite():
    mask = np.asarray([[0, -np.inf], [0, 0]], np.float32)
    spec = unit_spec(lambda p, x, mask: jax.nn.softmax(network(p, x) + mask), weights(), X, mask)
    assert spec == SPEC


@pytest.mark.parametrize("seed", range(5))
def test_two_units_are_always_exchanged(seed):
    """Half of the permutations of two units would hide a mistake."""
    params = {"in": np.ones((3, 2), np.float32), "out": np.ones((2, 2), np.float32)}
    spec = unit_spec(lambda p, x: x @ p["in"] @ p["out"], params, X, check=False)
    wrong = dataclasses.replace(spec, groups=(Group("in", 2, spec.groups[0].members[:1]),))
    with pytest.raises(UnitSpecError, match="permuting group 'in'"):
        check_spec(wrong, lambda p, x: x @ p["in"] @ p["out"], params, X, key=jax.random.key(seed))


def test_leaves_must_be_arrays():
    with pytest.raises(TypeError, match="0/activation is a str, not an array"):
        unit_spec(network, {**weights(), "activation": "relu"}, X)


def test_bad_permutations():
    for bad in ([0, 1], [0, 1, 2, 2], np.eye(4), [0.5, 1.5, 2.5, 3.5]):
        with pytest.raises(ValueError, match=r"group 'in' needs a permutation of 0, \.\.\., 3"):
            SPEC.permute(weights(), {"in": bad})
    with pytest.raises(ValueError, match="no group 'inn'; groups are named by module: in"):
        SPEC.permute(weights(), {"inn": [0, 1, 2, 3]})


def test_bad_scales():
    for bad in ([1, 2], [1, 2, 3, 0], [1, 2, 3, -1], [1, 2, 3, np.nan]):
        with pytest.raises(ValueError, match="group 'in' needs 4 positive factors"):
            SPEC.rescale(weights(), {"in": bad})
    spec = altered(lambda member: member._replace(exponent=None))
    with pytest.raises(ValueError, match="group 'in' cannot be rescaled"):
        spec.rescale(weights(), {"in": np.ones(4)})


def test_other_trees():
    unchanged = {"in": np.arange(4)}
    with pytest.raises(ValueError, match="'out' is missing, the spec was made for shape"):
        SPEC.permute({"in": np.ones((3, 4)), "bias": np.ones(4)}, unchanged)
    with pytest.raises(ValueError, match=r"'bias' has shape \(5,\), the spec was made for shape"):
        SPEC.permute({**weights(), "bias": np.ones(5)}, unchanged)


def test_traced_permutations_and_scales():
    params = jax.tree.map(lambda leaf: leaf + 0.5, weights())
    order, scales = np.asarray([2, 0, 3, 1]), np.asarray([1, 2, 0.5, 4], np.float32)

    @jax.jit
    def both(params, order, scales):
        return SPEC.rescale(SPEC.permute(params, {"in": order}), {"in": scales})

    expected = SPEC.rescale(SPEC.permute(params, {"in": order}), {"in": scales})
    jax.tree.map(np.testing.assert_array_equal, both(params, order, scales), expected)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(expected))
    assert {leaf.dtype for leaf in jax.tree.leaves(expected)} == {np.dtype("float32")}


def test_views_of_an_axis():
    """Stretch, outer and inner index by hand: units on the middle axis of (2, 3, 2) from 1 on."""
    spec = UnitSpec((Group("g", 3, (Member(("w",), 0, 1, 2, 2, 1),)),), ((("w",), (14,)),))
    moved = spec.permute({"w": np.arange(14)}, {"g": [2, 0, 1]})["w"]
    view = np.arange(1, 13).reshape(2, 3, 2)[:, [2, 0, 1]].ravel()
    np.testing.assert_array_equal(moved, [0, *view, 13])
    scaled = spec.rescale({"w": np.ones(14)}, {"g": [2, 3, 4]})["w"]
    np.testing.assert_array_equal(scaled, [1, *([2, 2, 3, 3, 4, 4] * 2), 1])


@st.composite
def networks(draw):
    """Widths of layers, and for each hidden one how many residual blocks of which widths follow."""
    widths = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    return widths, [draw(st.lists(st.integers(1, 4), max_size=2)) for _ in widths]


def relu(x):
    return x * (x > 0)


def residual(params, x):
    """Runs on arrays of NumPy as well."""
    for layer in params["layers"]:
        x = relu(x @ layer["w"] + layer["b"])
        for block in layer["blocks"]:
            x = x + relu(x @ block["up"]) @ block["down"] * block["gain"]
    return x @ params["head"]


@settings(max_examples=40)
@given(networks(), st.integers(0, 2**32 - 1))
def test_random_residual_networks(drawn, seed):
    """Every layer has a stream and every block an inner group, and all can be moved at once."""
    widths, blocks = drawn
    draw = np.random.default_rng(seed)
    params = {
        "layers": [
            {
                "w": draw.normal(size=(before, width)),
                "b": draw.normal(size=width),
                "blocks": [
                    {
                        "up": draw.normal(size=(width, inner)),
                        "down": draw.normal(size=(inner, width)),
                        "gain": draw.normal(size=width),
                    }
                    for inner in inners
                ],
            }
            for before, width, inners in zip([3, *widths], widths, blocks, strict=False)
        ],
        "head": draw.normal(size=(widths[-1], 2)),
    }
    x = draw.normal(size=(5, 3))
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.float32, params))
    spec = unit_spec(residual, shapes, x.astype(np.float32), check=False)
    assert sorted(group.size for group in spec.groups) == sorted(
        [*widths, *itertools.chain(*blocks)]
    )
    assert all(group.is_scalable for group in spec.groups)

    first, second = (
        {group.name: draw.permutation(group.size) for group in spec.groups} for _ in range(2)
    )
    scales = {group.name: draw.uniform(0.5, 2, group.size) for group in spec.groups}
    moved = spec.rescale(spec.permute(params, first), scales)
    np.testing.assert_allclose(residual(moved, x), residual(params, x), rtol=1e-10, atol=1e-10)

    both = {name: first[name][second[name]] for name in first}
    twice = spec.permute(spec.permute(params, first), second)
    jax.tree.map(np.testing.assert_array_equal, twice, spec.permute(params, both))
    back = spec.permute(twice, {name: np.argsort(both[name]) for name in both})
    jax.tree.map(np.testing.assert_array_equal, back, params)
