"""Copies of units: which weights share them, where they stand, and what cannot be split."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax.units import (
    Group,
    Member,
    UnitSpec,
    UnitSpecError,
    check_spec,
    copy_units,
    resized,
    unit_spec,
)
from tests.units.test_models import spec_of

X = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)


def reads(group):
    return {(*member.path[-2:], member.axis) for member in group.members if member.is_read}


def middle_spec(middle, rows=4, **others):
    """Of a network with something between its two layers."""
    shapes = {"in": (3, 4), "out": (rows, 2), **others}
    params = {name: jnp.ones(shape) for name, shape in shapes.items()}
    return unit_spec(lambda p, x: middle(p, x @ p["in"]) @ p["out"], params, X, check=False)


def test_units_are_read_where_sums_over_them_have_weights():
    assert reads(spec_of("mlp").group("Dense_0")) == {("Dense_1", "kernel", 0)}
    assert reads(spec_of("cnn").group("0/Conv_1")) == {("Dense_0", "kernel", 0)}
    assert reads(spec_of("resnet").group("0/stem")) == {
        ("conv0", "kernel", 2),
        ("projection", "kernel", 2),
    }
    # Once per axis of the recurrent matrix: its columns are produced, its rows are read.
    assert reads(spec_of("elman").group("input")) == {("head", "w", 0), ("recurrent", "w", 0)}
    assert reads(spec_of("gru").group("cell/ir")) == {
        ("head", "kernel", 0),
        *((f"h{gate}", "kernel", 0) for gate in "nrz"),
    }


def test_what_cannot_be_split_in_a_transformer():
    """The stream is normed over its units; queries and keys are multiplied with each other."""
    spec = spec_of("transformer", num_blocks=1)
    kept = [group.name for group in spec.groups if not group.is_splittable]
    assert kept == ["block0/attention/query/kernel:2", "embed"]


SPLITTABLE = {
    "tanh": lambda p, h: jnp.tanh(h),
    "linear": lambda p, h: h,
    "where": lambda p, h: jnp.where(h > 0, h, 0.1 * h),
    "a gate": lambda p, h: h * jax.nn.sigmoid(h),
    "a sum": lambda p, h: h + jnp.tanh(h),
    "the largest": lambda p, h: jnp.tanh(h) + jnp.tanh(h).max(-1, keepdims=True),
}
NOT_SPLITTABLE = {
    "softmax": lambda p, h: jax.nn.softmax(h),
    "root mean square": lambda p, h: h / jnp.sqrt(jnp.square(h).mean(-1, keepdims=True)),
    "centred": lambda p, h: h - h.mean(-1, keepdims=True),
    "product": lambda p, h: jnp.tanh(h) + jnp.prod(h, -1, keepdims=True),
    "meeting": lambda p, h: jnp.einsum("bi,ci->bc", h, h) @ jnp.ones((2, 1)) * jnp.tanh(h),
    "a norm of weights": lambda p, h: jnp.tanh(h) * jnp.linalg.norm(p["out"]),
}


@pytest.mark.parametrize("name", SPLITTABLE)
def test_what_can_be_split(name):
    [group] = middle_spec(SPLITTABLE[name]).groups
    assert [str(member) for member in group.members if member.is_read] == ["out axis 0"]


@pytest.mark.parametrize("name", NOT_SPLITTABLE)
def test_what_cannot_be_split(name):
    [group] = middle_spec(NOT_SPLITTABLE[name]).groups
    assert not group.is_splittable


@pytest.mark.parametrize("bend", [lambda h: h, lambda h: 1 / h, lambda h: h * h, jnp.square])
def test_sums_that_weigh_all_units_alike(bend):
    """Only linear units can share what they were given: no other weights are there."""
    shapes = {"in": (3, 4), "out": (2, 2)}
    params = {name: jnp.ones(shape) for name, shape in shapes.items()}
    spec = unit_spec(lambda p, x: bend(x @ p["in"]) @ jnp.ones((4, 2)) @ p["out"], params, X)
    reading = [str(member) for member in spec.group("in").members if member.is_read]
    assert reading == (["in axis 1"] if bend(3.0) == 3 else [])
    assert spec.group("in").is_splittable == bool(reading)


def test_units_that_stand_twice_on_an_axis():
    def network(params, x):
        h = jnp.tanh(x @ params["in"])
        return jnp.concatenate([h, h * h], -1) @ params["out"]

    draw = np.random.default_rng(0)
    params = {"in": draw.normal(size=(3, 4)), "out": draw.normal(size=(8, 2))}
    spec = unit_spec(network, params, X)
    shares = [1, 0.25, 1, 1.5, 0.75, -0.5]
    wide, wide_spec = copy_units(spec, params, {"in": [0, 1, 2, 3, 1, 3]}, {"in": shares})
    assert wide_spec == unit_spec(network, wide, X)
    np.testing.assert_allclose(network(wide, X), network(params, X), rtol=1e-5)


def test_a_flattened_outer_product_cannot_be_split():
    spec = middle_spec(lambda p, h: jnp.einsum("bi,bj->bij", h, h).reshape(2, 16), 16)
    with pytest.raises(ValueError, match=r"group 'in' cannot be split: .* a flattened outer"):
        resized(spec, {"in": 5})


def test_copies_on_a_stretch_of_an_axis_by_hand():
    """Units on the middle axis of (2, 3, 2) from 1 on, those of another group after them."""
    first = Group("g", 3, (Member(("w",), 0, 1, 2, 2, is_read=True),))
    second = Group("k", 2, (Member(("w",), 0, 13, 1, 1, is_read=False),))
    spec = UnitSpec((first, second), ((("w",), (16,)),))
    params = {"w": np.arange(16.0)}
    copied, wide = copy_units(spec, params, {"g": [2, 0, 2, 1]}, {"g": [0.5, 1, 0.5, 2]})
    view = np.arange(1, 13).reshape(2, 3, 2)[:, [2, 0, 2, 1]] * [[0.5], [1], [0.5], [2]]
    np.testing.assert_array_equal(copied["w"], [0, *view.ravel(), 13, 14, 15])
    assert wide.leaves == ((("w",), (20,)),)
    assert [group.members[0].start for group in wide.groups] == [1, 17]
    assert [group.size for group in wide.groups] == [4, 2]
    # And the other way round: what follows has changed before.
    both, _ = copy_units(spec, params, {"k": [1, 1, 0], "g": [2, 0, 2, 1]})
    np.testing.assert_array_equal(both["w"][-4:], [14, 14, 13, 15])


def test_groups_that_share_a_stretch():
    """Heads and their entries: an index around another."""
    heads = Group("heads", 2, (Member(("w",), 0, 0, 1, 3, is_read=False),))
    entries = Group("entries", 3, (Member(("w",), 0, 0, 2, 1, is_read=True),))
    spec = UnitSpec((entries, heads), ((("w",), (6,)),))
    for order in (["heads", "entries"], ["entries", "heads"]):
        copies = {"heads": [1, 0, 1], "entries": [0, 2]}
        copied, other = copy_units(
            spec, {"w": np.arange(6.0)}, {name: copies[name] for name in order}
        )
        np.testing.assert_array_equal(copied["w"], [3, 5, 0, 2, 3, 5])
        assert [group.members[0][3:5] for group in other.groups] == [(3, 1), (1, 2)]


@pytest.mark.parametrize(
    ("name", "narrow", "wide"),
    [
        ("mlp", {"sizes": (5, 8, 6, 3)}, {"sizes": (5, 9, 7, 3)}),
        ("vgg", {"stages": ((4,), (6, 6))}, {"stages": ((5,), (6, 8))}),
        ("densenet", {"growth": 2}, {"growth": 3}),
        ("elman", {"width": 4}, {"width": 6}),
        ("resnet_bottleneck", {"width": 4}, {"width": 5}),
    ],
)
def test_resized_specs_are_those_of_wider_models(name, narrow, wide):
    spec, expected = spec_of(name, **narrow), spec_of(name, **wide)
    assert resized(spec, {group.name: group.size for group in expected.groups}) == expected


def test_wrong_readers_are_refused():
    spec = middle_spec(lambda p, h: jnp.tanh(h))
    params = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}
    [group] = spec.groups
    members = tuple(member._replace(is_read=not member.is_read) for member in group.members)
    wrong = dataclasses.replace(spec, groups=(Group("in", 4, members),))
    with pytest.raises(
        UnitSpecError, match=r"splitting group 'in' .* is_read True, tracing finds F"
    ):
        check_spec(wrong, lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"], params, X)


def test_hidden_norms_are_refused():
    """A spec that says that a norm can be split is proved wrong."""
    params = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}

    def normed(params, x):
        return jax.nn.softmax(x @ params["in"]) @ params["out"] / params["out"].sum()

    spec = unit_spec(normed, params, X)
    [group] = spec.groups
    members = tuple(m._replace(is_read=m.path == ("out",)) for m in group.members)
    wrong = dataclasses.replace(spec, groups=(Group("in", 4, members),))
    with pytest.raises(UnitSpecError, match="splitting group 'in'"):
        check_spec(wrong, normed, params, X)


def test_bad_copies():
    spec = middle_spec(lambda p, h: jnp.tanh(h))
    params = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}
    for bad in ([0, 4], [-1], [], [[0, 1]], [0.5]):
        with pytest.raises(ValueError, match=r"group 'in' needs a list of its units 0, \.\.\., 3"):
            copy_units(spec, params, {"in": bad})
    with pytest.raises(ValueError, match=r"a share for each of 2 units, got an array of shape \(3"):
        copy_units(spec, params, {"in": [0, 1]}, {"in": [1, 1, 1]})
    with pytest.raises(ValueError, match="needs at least one unit, got 0"):
        resized(spec, {"in": 0})
    with pytest.raises(ValueError, match=r"'out' has shape \(5, 2\), the spec was made for"):
        copy_units(spec, {**params, "out": jnp.ones((5, 2))}, {"in": [0]})
