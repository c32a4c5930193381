"""Embedding keeps the outputs, the loss and what is critical."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from pfn_optax.landscape import embed, widen
from pfn_optax.units import unit_spec
from tests.units.test_models import with_statistics
from tests.zoo import SMALL

pytestmark = pytest.mark.usefixtures("unoptimized")

X = np.random.default_rng(0).normal(size=(7, 3))
Y = np.random.default_rng(1).normal(size=(7, 2))


def network(params, x):
    for layer in ("first", "second"):
        x = jnp.tanh(x @ params[layer]["w"] + params[layer]["b"])
    return x @ params["head"]


@jax.jit
def loss(params):
    return jnp.mean(jnp.square(network(params, X) - Y))


gradient = jax.jit(jax.grad(loss))


def weights(seed, first=4, second=3):
    draw = np.random.default_rng(seed)
    return {
        "first": {"w": draw.normal(size=(3, first)), "b": draw.normal(size=first)},
        "second": {"w": draw.normal(size=(first, second)), "b": draw.normal(size=second)},
        "head": draw.normal(size=(second, 2)),
    }


SPEC = unit_spec(network, weights(0), X)
PLACES = {"first": ("first", "second"), "second": ("second", "head")}


def incoming(params, layer):
    return np.vstack([params[layer]["w"], params[layer]["b"]])


def outgoing(params, layer):
    return np.asarray(params["second"]["w"] if layer == "first" else params["head"])


@pytest.mark.usefixtures("x64")
@settings(max_examples=30)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["first", "second"]),
    st.integers(0, 2),
    st.floats(-3, 3),
)
def test_a_split_keeps_the_loss_and_shares_the_gradient(seed, layer, unit, alpha):
    """Each copy has its share of the gradient of w and all of that of a: nothing else moves."""
    params = weights(seed)
    wide, spec = embed(params, SPEC, layer, unit, alpha=alpha)
    assert spec.group(layer).size == SPEC.group(layer).size + 1
    np.testing.assert_allclose(loss(wide), loss(params), rtol=1e-12)
    before, after = gradient(params), gradient(wide)
    shares = np.ones(spec.group(layer).size)
    shares[[unit, -1]] = alpha, 1 - alpha
    units = [*range(SPEC.group(layer).size), unit]
    tolerance = {"rtol": 1e-10, "atol": 1e-12}
    np.testing.assert_allclose(
        incoming(after, layer), incoming(before, layer)[:, units] * shares, **tolerance
    )
    np.testing.assert_allclose(outgoing(after, layer), outgoing(before, layer)[units], **tolerance)
    other = "second" if layer == "first" else "first"
    other_before, other_after = incoming(before, other), incoming(after, other)
    if layer == "second":  # the layer before, which has not changed
        np.testing.assert_allclose(other_after, other_before, **tolerance)


ZOO = {
    "densenet": ({"growth": 2}, {"growth": 3}),
    "resnet": ({"width": 2, "stages": (1, 1)}, {"width": 3, "stages": (1, 1)}),
    "elman": ({"width": 3}, {"width": 5}),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ZOO)
def test_models_built_wider_take_the_widened_parameters(name):
    """Their batch statistics go along, and their specs are those that tracing finds."""
    narrow, wide = (SMALL[name](make=jax.eval_shape, **sizes) for sizes in ZOO[name])
    function, shapes, abstract = with_statistics(narrow)
    wide_function, wide_params, wide_args = with_statistics(wide)
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: draw.uniform(0.1, 0.5, leaf.shape), shapes)
    args = jax.tree.map(lambda leaf: draw.normal(size=leaf.shape), abstract)
    spec = unit_spec(function, shapes, *abstract, check=False)
    expected = unit_spec(wide_function, wide_params, *wide_args, check=False)
    widths = {group.name: group.size for group in expected.groups}
    embedded = widen(params, spec, widths, key=jax.random.key(3))
    assert embedded.spec == expected
    assert jax.tree.structure(embedded.params) == jax.tree.structure(wide_params)
    np.testing.assert_allclose(
        jax.jit(wide_function)(embedded.params, *args),
        jax.jit(function)(params, *args),
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.usefixtures("x64")
def test_units_are_split_in_turn_without_a_key():
    params = weights(2)
    wide, spec = widen(params, SPEC, {"first": 10, "second": 3})
    first = np.asarray(wide["first"]["w"])
    np.testing.assert_array_equal(first, np.tile(params["first"]["w"], 3)[:, :10])
    shares = np.asarray([3, 3, 2, 2] * 3)[:10, None]
    np.testing.assert_allclose(
        wide["second"]["w"], np.tile(params["second"]["w"], (3, 1))[:10] / shares
    )
    assert spec.leaves[0] == (("first", "b"), (10,))
    np.testing.assert_allclose(network(wide, X), network(params, X), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_eager_and_compiled_and_batched_agree():
    params = weights(4)
    split = functools.partial(embed, params, SPEC, "first", 1)
    alphas = jnp.asarray([-0.5, 0.25, 1.0])
    batched = jax.jit(jax.vmap(lambda alpha: split(alpha=alpha).params))(alphas)
    for number, alpha in enumerate(alphas):
        single = split(alpha=float(alpha)).params
        jax.tree.map(
            lambda some, one, number=number: np.testing.assert_allclose(some[number], one),
            batched,
            single,
        )
    keys = jax.random.split(jax.random.key(0), 3)

    def random(key):
        return widen(params, SPEC, {"second": 6}, key=key).params

    several = jax.jit(jax.vmap(random))(keys)
    for number, key in enumerate(keys):
        jax.tree.map(
            lambda some, one, number=number: np.testing.assert_allclose(some[number], one),
            several,
            random(key),
        )
    outputs = jax.vmap(lambda params: network(params, X))(several)
    np.testing.assert_allclose(outputs, np.stack([network(params, X)] * 3), rtol=1e-12)
    assert len(np.unique(np.round(several["head"][:, 0, 0], 9))) == 3


def test_dtypes_stay():
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), weights(0))
    wide, _ = widen(params, SPEC, {"first": 6}, key=jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(wide)} == {np.dtype(jnp.bfloat16)}


def test_refusals():
    params = weights(0)
    with pytest.raises(ValueError, match=r"group 'first' has the units 0, \.\.\., 3, got 4"):
        embed(params, SPEC, "first", 4)
    with pytest.raises(ValueError, match="no group 'frist'; groups are named by module: first"):
        embed(params, SPEC, "frist", 0)
    with pytest.raises(ValueError, match="'first' has 4 units already, got the width 3"):
        widen(params, SPEC, {"first": 3})

    def normed(params, x):
        return jax.nn.softmax(x @ params["in"]) @ params["out"]

    params = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}
    spec = unit_spec(normed, params, jnp.ones((1, 3)))
    with pytest.raises(ValueError, match=r"group 'in' cannot be split: .* a softmax over them"):
        embed(params, spec, "in", 0)
