"""Signs of odd units: where the trace finds them the function is as it was, and nowhere else."""

import dataclasses

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from jax import lax

from pfn_optax.units import Group, Member, UnitSpec, UnitSpecError, check_spec, unit_spec
from tests.zoo import SMALL

SHAPES = {"in": (3, 4), "bias": (4,), "out": (4, 2)}
X = jax.ShapeDtypeStruct((2, 3), jnp.float32)


def abstract(shapes):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


def drawn(shapes, seed=0):
    draw = np.random.default_rng(seed)
    return {name: draw.normal(size=shape) for name, shape in shapes.items()}


def network(activation):
    return lambda p, x: activation(x @ p["in"] + p["bias"]) @ p["out"]


def flips(group):
    return {(*member.path[-2:], member.axis) for member in group.members if member.flips}


ODD = {
    "identity": lambda x: x,
    "tanh": jnp.tanh,
    "sin": jnp.sin,
    "erf": lax.erf,
    "asinh": jnp.arcsinh,
    "atan": jnp.arctan,
    "sinh": jnp.sinh,
    "softsign": jax.nn.soft_sign,
    "cube": lambda x: x**3,
    "cube root": jnp.cbrt,
    "x |x|": lambda x: x * jnp.abs(x),
    "symmetric logarithm": lambda x: jnp.sign(x) * jnp.log1p(jnp.abs(x)),
    "x cos x": lambda x: x * jnp.cos(x),
    "root mean square norm": lambda x: x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1),
    "zero where small": lambda x: jnp.where(jnp.square(x) > 0.1, x, 0),
}
NOT_ODD = {
    "relu": jax.nn.relu,
    "leaky relu": jax.nn.leaky_relu,
    "gelu": jax.nn.gelu,
    "swish": jax.nn.swish,
    "elu": jax.nn.elu,
    "sigmoid": jax.nn.sigmoid,
    "softmax": jax.nn.softmax,
    "+ 1": lambda x: x + 1,
    "exponential": jnp.exp,
    "one": lambda x: 0.0 * x + 1,
    "one, from infinity": lambda x: jnp.tanh(jnp.square(x) / (0.0 * jnp.abs(x))),
    "square": jnp.square,
    "absolute": jnp.abs,
    "cosine": jnp.cos,
    "x exp x": lambda x: x * jnp.exp(x),
    "rounded down": jnp.floor,
    "infinite where negative": lambda x: jnp.where(x < 0, -jnp.inf, x),
    "layer norm": jax.nn.standardize,
    "running sum": lambda x: jnp.cumsum(x, -1),
    "largest": lambda x: x * jnp.max(x, -1, keepdims=True),
}


@pytest.mark.parametrize("name", sorted(ODD))
def test_odd_units_can_be_flipped(name):
    """The check flips them."""
    spec = unit_spec(network(ODD[name]), abstract(SHAPES), X)
    assert spec.group("in").is_odd
    assert flips(spec.group("in")) == {("in", 1), ("bias", 0), ("out", 0)}


@pytest.mark.parametrize("name", sorted(NOT_ODD))
def test_other_units_cannot(name):
    """And had better not be: flipped all the same, they compute something else."""
    function = network(NOT_ODD[name])
    for group in unit_spec(function, abstract(SHAPES), X, check=False).groups:
        assert not group.is_odd
    params, x = drawn(SHAPES), np.asarray([[1.0, 2, 3], [-1, 1, 0]])
    odd = unit_spec(network(jnp.tanh), abstract(SHAPES), X, check=False)
    flipped = odd.flip(params, {"in": [-1, 1, 1, -1]})
    assert not np.allclose(function(flipped, x), function(params, x), equal_nan=True)


def divided(a, b):
    """Away from the poles: infinity has a sign that zero has not."""
    assume(isinstance(b, jax.core.Tracer) or np.all(np.asarray(b) != 0))
    return jnp.divide(a, b)


UNARY = [*ODD.values(), *NOT_ODD.values()]
BINARY = [jnp.add, jnp.subtract, jnp.multiply, divided, jnp.maximum, jnp.remainder, lax.rem]
BINARY += [jnp.arctan2, lambda a, b: jnp.where(a == b, a, -b), lambda a, b: jnp.where(a > 0, a, b)]


@st.composite
def activations(draw, depth=3):
    """Terms over x of random operations."""
    kind = draw(st.integers(0, 2 if depth else 0))
    if kind == 0:
        return draw(st.sampled_from([lambda x: x, lambda x: -x, lambda x: 0 * x, jnp.ones_like]))
    if kind == 1:
        outer, inner = draw(st.sampled_from(UNARY)), draw(activations(depth - 1))
        return lambda x: outer(inner(x))
    outer = draw(st.sampled_from(BINARY))
    left, right = draw(activations(depth - 1)), draw(activations(depth - 1))
    return lambda x: outer(left(x), right(x))


@settings(max_examples=200)
@given(activations())
def test_what_is_said_to_be_odd_is_odd(activation):
    for group in unit_spec(network(activation), abstract(SHAPES), X, check=False).groups:
        if group.is_odd:
            assert group.name == "in"
            x = np.asarray([[0.3, -1.2, 2.1, 0.7], [1.4, 0.2, -0.6, -2.5]], np.float32)
            signs = np.asarray([1, -1, -1, 1])
            np.testing.assert_allclose(
                activation(x * signs),
                activation(x) * signs,
                rtol=1e-4,
                atol=1e-4,
                err_msg=str(jax.make_jaxpr(activation)(x)),
            )


@st.composite
def networks(draw):
    """Widths of layers, and for each the widths of the residual blocks that follow it."""
    widths = draw(st.lists(st.integers(1, 4), min_size=2, max_size=3))
    return widths, [draw(st.lists(st.integers(1, 4), max_size=2)) for _ in widths]


def residual(params, x):
    """Runs on arrays of NumPy as well."""
    for layer in params["layers"]:
        x = x @ layer["w"] + layer["b"]
        x = x / (1 + abs(x))
        for block in layer["blocks"]:
            y = x @ block["up"]
            x = x + y * abs(y) @ block["down"] * block["gain"]
    return x @ params["head"]


@settings(max_examples=30)
@given(networks(), st.integers(0, 2**32 - 1))
def test_random_odd_networks(drawn, seed):
    """All groups flip at once, twice is not at all, and permuted units take their signs along."""
    widths, blocks = drawn
    draw = np.random.default_rng(seed)
    normal = lambda *shape: draw.normal(size=shape)  # noqa: E731
    params = {
        "layers": [
            {
                "w": normal(before, width),
                "b": normal(width),
                "blocks": [
                    {
                        "up": normal(width, inner),
                        "down": normal(inner, width),
                        "gain": normal(width),
                    }
                    for inner in inners
                ],
            }
            for before, width, inners in zip([3, *widths], widths, blocks, strict=False)
        ],
        "head": normal(widths[-1], 2),
    }
    x = normal(5, 3)
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.float32, params))
    spec = unit_spec(residual, shapes, x.astype(np.float32), check=False)
    assert len(spec.groups) == len(widths) + sum(map(len, blocks))
    assert all(group.is_odd for group in spec.groups)

    signs = {group.name: draw.choice([-1, 1], group.size) for group in spec.groups}
    orders = {group.name: draw.permutation(group.size) for group in spec.groups}
    flipped = spec.flip(params, signs)
    np.testing.assert_allclose(residual(flipped, x), residual(params, x), rtol=1e-9, atol=1e-9)
    jax.tree.map(np.testing.assert_array_equal, spec.flip(flipped, signs), params)
    one = spec.permute(flipped, orders)
    other = spec.flip(
        spec.permute(params, orders), {name: signs[name][orders[name]] for name in signs}
    )
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_linear_unit_is_flipped_as_if_rescaled_by_minus_one():
    """Its scale may be any number but zero."""
    spec = unit_spec(network(lambda x: x), abstract(SHAPES), X)
    [group] = spec.groups
    assert all(member.exponent is not None for member in group.members)
    assert all(member.flips == (member.exponent % 2 == 1) for member in group.members)
    params, scales = drawn(SHAPES), np.asarray([0.5, -2, -1, 3])
    both = spec.flip(spec.rescale(params, {"in": np.abs(scales)}), {"in": np.sign(scales)})
    np.testing.assert_allclose(both["in"], params["in"] * scales)
    np.testing.assert_allclose(both["out"], params["out"] / scales[:, None])


def batch_normed(activation, in_training):
    """Kernel, norm, activation, head; statistics of the batch or among the parameters."""

    def function(p, x):
        h = x @ p["in"] + p["bias"]
        mean, var = (h.mean(0), h.var(0)) if in_training else (p["mean"], p["var"])
        h = (h - mean) * (lax.rsqrt(var + 1e-5) * p["scale"]) + p["shift"]
        return activation(h) @ p["out"]

    norm = dict.fromkeys(("scale", "shift") + (() if in_training else ("mean", "var")), (4,))
    return function, abstract(SHAPES | norm)


@pytest.mark.parametrize("in_training", [False, True])
def test_a_batch_norm_is_odd_in_what_it_reads_and_in_its_mean(in_training):
    """Neither its variance nor its scale flips; what comes after it does."""
    spec = unit_spec(*batch_normed(jnp.tanh, in_training), jax.ShapeDtypeStruct((5, 3), "float32"))
    mean = set() if in_training else {("mean", 0)}
    assert flips(spec.group("in")) == {("in", 1), ("bias", 0), ("shift", 0), ("out", 0)} | mean


def test_a_batch_norm_before_a_relu_has_no_sign():
    function, params = batch_normed(jax.nn.relu, in_training=False)
    assert not unit_spec(function, params, X).group("in").is_odd


@pytest.mark.parametrize(
    ("name", "candidate", "gates"),
    [("gru", ("in", "hn"), ("ir", "hr", "iz", "hz")), ("lstm", ("ig", "hg"), ("ii", "hi", "ho"))],
)
def test_a_recurrent_state_flips_with_its_candidate_and_not_with_its_gates(name, candidate, gates):
    """Whatever reads the state reads it flipped; sigmoid gates come out as they were."""
    case = SMALL[name](make=jax.eval_shape)
    [group] = unit_spec(case.apply, case.params, *case.args).groups
    signs = {(*member.path[-2:], member.axis): member.flips for member in group.members}
    for (layer, leaf, axis), is_flipped in signs.items():
        is_reader = leaf == "kernel" and axis == 0
        assert is_flipped == (is_reader or layer in candidate)
    assert {(layer, "kernel", 1) for layer in (*candidate, *gates)} < signs.keys()


def test_fused_gates_share_their_sign():
    """A known limit: what lies side by side in one value flips as one, so gates hold all of it."""

    def function(p, x):
        gate, value = jnp.split(x @ p["in"], 2, -1)
        return (jax.nn.sigmoid(gate) * jnp.tanh(value)) @ p["out"]

    [group] = unit_spec(function, abstract({"in": (3, 8), "out": (4, 2)}), X).groups
    assert not group.is_odd


def test_transformers_flip_heads_and_their_entries():
    """Not the stream, which a layer norm centres, and not what gelu reads."""
    case = SMALL["transformer"](num_blocks=1, make=jax.eval_shape)
    spec = unit_spec(case.apply, case.params, *case.args)
    names = ("query/kernel", "query/kernel:2", "value/kernel")
    odd = {group.name for group in spec.groups if group.is_odd}
    assert odd == {f"block0/attention/{name}" for name in names}
    assert {group.name for group in spec.groups} - odd == {"embed", "block0/up"}
    keys = spec.group("block0/attention/query/kernel:2")
    assert flips(keys) == {
        (name, leaf, axis)
        for name in ("query", "key")
        for leaf, axis in (("kernel", 2), ("bias", 1))
    }


def test_gated_units_flip_one_of_their_factors():
    """(x A) * (x B): the first factor flips with the reader, or the second; one is chosen."""
    spec = unit_spec(
        lambda p, x: ((x @ p["a"]) * (x @ p["b"])) @ p["out"],
        abstract({"a": (3, 4), "b": (3, 4), "out": (4, 2)}),
        X,
    )
    assert flips(spec.group("a")) == {("a", 1), ("out", 0)}


def test_wrong_flips_are_named():
    function = network(jnp.tanh)
    spec = unit_spec(function, abstract(SHAPES), X, check=False)
    [group] = spec.groups
    members = tuple(m._replace(flips=m.path != ("out",)) for m in group.members)
    wrong = dataclasses.replace(spec, groups=(dataclasses.replace(group, members=members),))
    message = r"flipping group 'in' .* out axis 0 has flips False, tracing finds True\.$"
    with pytest.raises(UnitSpecError, match=message):
        check_spec(wrong, function, abstract(SHAPES), X)


def test_bad_signs():
    params = drawn(SHAPES)
    spec = unit_spec(network(jnp.tanh), params, X, check=False)
    for bad in ([1, -1], [1, 1, 1, 0], [1, 1, 1, 2], [1, 1, 1, np.nan]):
        with pytest.raises(ValueError, match=r"group 'in' needs 4 signs, each \+1 or -1"):
            spec.flip(params, {"in": bad})
    with pytest.raises(ValueError, match="no group 'inn'"):
        spec.flip(params, {"inn": [1, 1, 1, 1]})
    spec = unit_spec(network(jax.nn.relu), params, X, check=False)
    with pytest.raises(ValueError, match="group 'in' cannot be flipped: something between"):
        spec.flip(params, {"in": np.ones(4)})


def test_traced_signs():
    """In jit and over a batch of signs; in the dtypes of the leaves."""
    params = jax.tree.map(np.float32, drawn(SHAPES))
    spec = unit_spec(network(jnp.tanh), params, X, check=False)
    signs = np.asarray([[1, -1, 1, -1], [-1, -1, 1, 1]])
    rows = [spec.flip(params, {"in": row}) for row in signs]
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(rows))
    received = jax.jit(jax.vmap(lambda row: spec.flip(params, {"in": row})))(signs)
    jax.tree.map(np.testing.assert_array_equal, received, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(received)} == {np.dtype("float32")}


def test_stretches_are_flipped_where_they_are():
    member = Member(("w",), 0, start=1, before=2, after=2, flips=True)
    spec = UnitSpec((Group("g", 3, (member,)),), ((("w",), (14,)),))
    flipped = spec.flip({"w": np.ones(14)}, {"g": [-1, 1, -1]})["w"]
    np.testing.assert_array_equal(flipped, [1, *([-1, -1, 1, 1, -1, -1] * 2), 1])
