"""Specs written by hand: the right ones are those that tracing finds, wrong ones are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax.units import Member, UnitSpecError, check_spec, spec_from_axes, unit_spec
from tests.zoo import SMALL

NORM = ("scale:0", "bias:0")


def conv_net():
    """The CNN of the zoo with its statistics, and its groups by hand."""
    case = SMALL["cnn"](make=jax.eval_shape)
    statistics, *args = case.args
    axes = {
        "first": [
            *("0/Conv_0/kernel:3", "0/Conv_0/bias:0", "0/Conv_1/kernel:2"),
            *(f"0/BatchNorm_0/{name}" for name in NORM),
            *(f"1/batch_stats/BatchNorm_0/{name}:0" for name in ("mean", "var")),
        ],
        "second": [
            *("0/Conv_1/kernel:3", "0/Conv_1/bias:0"),
            *(f"0/BatchNorm_1/{name}" for name in NORM),
            *(f"1/batch_stats/BatchNorm_1/{name}:0" for name in ("mean", "var")),
            Member(("0", "Dense_0", "kernel"), 0, before=4),
        ],
        "third": ["0/Dense_0/kernel:1", "0/Dense_0/bias:0", "0/Dense_1/kernel:0"],
    }
    return (
        lambda params, *args: case.apply(params[0], params[1], *args),
        (case.params, statistics),
        args,
        axes,
    )


def places(spec):
    return {frozenset(member.place for member in group.members) for group in spec.groups}


def test_the_groups_of_a_conv_net_by_hand():
    function, params, args, axes = conv_net()
    spec = spec_from_axes(params, axes)
    check_spec(spec, function, params, *args)
    traced = unit_spec(function, params, *args, check=False)
    assert places(spec) == places(traced)
    assert spec.leaves == traced.leaves
    assert {group.name: group.size for group in spec.groups} == {
        "first": 4,
        "second": 8,
        "third": 16,
    }


@pytest.mark.parametrize(
    ("group", "old", "new", "message"),
    [
        ("first", "0/Conv_1/kernel:2", None, r"'first' .* It lacks 0/Conv_1/kernel axis 2\."),
        ("first", "1/batch_stats/BatchNorm_0/var:0", None, r"lacks 1/.*/BatchNorm_0/var axis 0\."),
        (
            "second",
            Member(("0", "Dense_0", "kernel"), 0, before=4),
            Member(("0", "Dense_0", "kernel"), 0, after=4),
            r"'second' .* It lacks 0/Dense_0/kernel axis 0 from 0 as \(4, units, 1\)\. These are "
            r"not in it: 0/Dense_0/kernel axis 0 from 0 as \(1, units, 4\)\. Correct these members",
        ),
        (
            "third",
            "0/Dense_1/kernel:0",
            None,
            r"permuting group 'third' \(0/Dense_0/bias axis 0, 0/Dense_0/kernel axis 1\) changes "
            r"the output by .* of its size, 1e-10 are allowed\. It lacks 0/Dense_1/kernel axis 0\.",
        ),
    ],
    ids=["reader", "statistics", "order of flattening", "head"],
)
def test_what_is_wrong_is_named(group, old, new, message):
    function, params, args, axes = conv_net()
    axes[group] = [place for place in [*axes[group], new] if place not in (old, None)]
    with pytest.raises(UnitSpecError, match=message):
        check_spec(spec_from_axes(params, axes), function, params, *args)


def test_a_wrong_axis_of_a_square_matrix_is_named():
    params = {"in": np.ones((4, 4)), "out": np.ones((4, 4))}
    spec = spec_from_axes(params, {"hidden": ["in:0", "out:0"]})
    with pytest.raises(UnitSpecError, match=r"lacks in axis 1\. These are not in it: in axis 0\."):
        check_spec(spec, lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"], params, np.ones((2, 4)))


def test_units_that_are_none_are_named():
    """The inputs have an order."""
    spec = spec_from_axes({"w": np.ones((4, 2))}, {"inputs": ["w:0"]})
    with pytest.raises(UnitSpecError, match=r"no group there: .* Leave the group out\."):
        check_spec(spec, lambda p, x: x @ p["w"], {"w": np.ones((4, 2))}, np.eye(4))


def test_rounding_is_told_from_a_wrong_spec():
    """Sums in another order differ in their last digits."""
    params = {"in": np.ones((3, 64)), "out": np.ones((64, 2))}
    spec = spec_from_axes(params, {"hidden": ["in:1", "out:0"]})
    with pytest.raises(UnitSpecError, match="finds the same group: raise the tolerance if this"):
        check_spec(spec, lambda p, x: x @ p["in"] @ p["out"], params, np.eye(3), tolerance=0.0)


def test_heads_of_a_fused_matrix():
    """Two groups on one axis; none of them has an axis of its own."""

    def function(params, x):
        q, k, v = (x @ params[name] for name in ("query", "key", "value"))
        q, k, v = (a.reshape(*a.shape[:-1], 2, 3) for a in (q, k, v))
        scores = jax.nn.softmax(jnp.einsum("qhd,khd->hqk", q, k))
        return jnp.einsum("hqk,khd->qhd", scores, v).reshape(-1, 6) @ params["out"]

    shapes = dict.fromkeys(("query", "key", "value"), (4, 6)) | {"out": (6, 2)}
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    x = jax.ShapeDtypeStruct((5, 4), jnp.float32)
    matrices = [((name,), 1) for name in ("query", "key", "value")] + [(("out",), 0)]
    spec = spec_from_axes(
        params,
        {
            "heads": [Member(*place, after=3) for place in matrices],
            "keys": [Member(*place, before=2) for place in matrices[:2]],
            "values": [Member(*place, before=2) for place in matrices[2:]],
        },
    )
    assert [group.size for group in spec.groups] == [2, 3, 3]
    check_spec(spec, function, params, x)
    assert places(spec) == places(unit_spec(function, params, x, check=False))


PARAMS = {"Dense_0": {"kernel": np.ones((3, 4)), "bias": np.ones(4)}, "head": np.ones((8, 2))}


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (["Dense_0/kernal:1"], r"no leaf 'Dense_0/kernal'; the nearest are Dense_0/kernel"),
        (["Dense_0/kernel:2"], r"Dense_0/kernel has shape \(3, 4\) and no axis 2; count from 0 to"),
        (["Dense_0/kernel"], r"'Dense_0/kernel' names no axis; write the leaf, a colon and"),
        (["Dense_0/kernel:-1"], "names no axis"),
        ([Member(("Dense_0", "kernel"), -1)], "no axis -1"),
        (["Dense_0/kernel:1", "Dense_0/kernel:0"], r"kernel axis 0 has room for 3 units, .* for 4"),
        (["Dense_0/kernel:1", "head:0"], r"2 pixels, pass Member\(\('head',\), 0, before=2\)"),
        (["Dense_0/bias:0", Member(("head",), 0, 6)], r"head axis 0 from 6 .* room for 2 units"),
        ([Member(("head",), 0, 9)], r"head axis 0 from 9 .* has room for -1 units"),
        (["Dense_0/bias:0"] * 2, "Dense_0/bias axis 0 is given 2 times"),
        ([], "needs a list of axes"),
        ("Dense_0/bias:0", "needs a list of axes"),
    ],
)
def test_bad_axes(axes, message):
    with pytest.raises(ValueError, match=message):
        spec_from_axes(PARAMS, {"hidden": axes})


def test_two_groups_on_one_place():
    with pytest.raises(ValueError, match="Dense_0/bias axis 0 is given 2 times"):
        spec_from_axes(PARAMS, {"one": ["Dense_0/bias:0"], "other": ["Dense_0/bias:0"]})


def test_parameters_that_are_one_array():
    spec = spec_from_axes(np.eye(3), {"units": [":1"]})
    assert str(spec.group("units").members[0]) == "params axis 1"
