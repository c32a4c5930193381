"""Growth keeps the function, the loss and the batch statistics."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings

from pfn_optax.growth import grow, widths
from pfn_optax.units import Group, UnitSpec, UnitSpecError, unit_spec
from tests.growth.networks import SPEC, X, assert_close, gradient, predict, weights
from tests.units.test_models import with_statistics
from tests.zoo import SMALL

pytestmark = pytest.mark.usefixtures("unoptimized")


@pytest.mark.usefixtures("x64")
@settings(max_examples=12)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([{"first": 1}, {"second": 2}, {"first": 2, "second": 1}]),
    st.sampled_from(["split", "fresh"]),
    st.sampled_from([0.0, 0.1, 0.9]),
)
def test_the_function_and_the_loss_stay(seed, added, how, spread):
    params = weights(seed)
    wide = grow(params, SPEC, added, how=how, spread=spread, key=jax.random.key(seed % 1000))
    for name, size in widths(SPEC).items():
        assert widths(wide.spec)[name] == size + added.get(name, 0)
    assert wide.spec == unit_spec(predict, wide.params, X, check=False)
    np.testing.assert_allclose(predict(wide.params, X), predict(params, X), rtol=1e-11, atol=1e-12)
    # Old units stay where they are.
    size = SPEC.group("first").size
    np.testing.assert_array_equal(wide.params["first"]["w"][:, :size], params["first"]["w"])


ZOO = {
    "cnn": ({"width": 2}, {"width": 3}),
    "resnet": ({"width": 2, "stages": (1, 1)}, {"width": 3, "stages": (1, 1)}),
    "elman": ({"width": 3}, {"width": 5}),
}
RECURRENT = {
    "gru": ({"width": 3}, {"width": 5}),
    "lstm": ({"width": 3}, {"width": 5}),
}


def grow_to(name, sizes, tolerance):
    """Grows every group of a model to those of a wider one; all take the same parameters."""
    narrow, wide = (SMALL[name](make=jax.eval_shape, **each) for each in sizes)
    function, shapes, abstract = with_statistics(narrow)
    wide_function, wide_shapes, wide_args = with_statistics(wide)
    draw = np.random.default_rng(0)

    def values(leaf):
        signs = draw.choice([-1, 1], leaf.shape) if leaf.ndim > 1 else 1
        entries = draw.uniform(0.1, 0.5, leaf.shape) * signs
        return entries if jax.config.read("jax_enable_x64") else entries.astype(np.float32)

    tree, args = jax.tree.map(values, (shapes, abstract))
    spec = unit_spec(function, shapes, *abstract, check=False)
    expected = unit_spec(wide_function, wide_shapes, *wide_args, check=False)
    new = widths(expected)
    added = {key: new[key] - size for key, size in widths(spec).items() if new[key] > size}
    params, stats = tree if isinstance(tree, tuple) else (tree, None)
    before, run = jax.jit(function)(tree, *args), jax.jit(wide_function)
    for how in ("split", "fresh"):
        grown = grow(params, spec, added, how=how, key=jax.random.key(1), batch_stats=stats)
        assert grown.spec == expected
        new_tree = grown.params if stats is None else (grown.params, grown.batch_stats)
        np.testing.assert_allclose(run(new_tree, *args), before, rtol=tolerance, atol=tolerance)
        if stats is not None:
            variances = [
                leaf
                for path, leaf in jax.tree_util.tree_leaves_with_path(grown.batch_stats)
                if "var" in str(path)
            ]
            assert variances
            assert all(np.all(leaf > 0) for leaf in variances)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ZOO)
def test_models_take_what_is_grown(name):
    """Channels with batch norm, streams, flattened pixels, a recurrent matrix."""
    grow_to(name, ZOO[name], 1e-12)


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_cells_take_what_is_grown(name):
    grow_to(name, RECURRENT[name], 1e-5)


def attention(params, x):
    heads = {name: jnp.einsum("td,dhk->thk", x, params[name]) for name in ("q", "k", "v")}
    scores = jax.nn.softmax(jnp.einsum("thk,shk->hts", heads["q"], heads["k"]))
    x = x + jnp.einsum("hts,shk,hkd->td", scores, heads["v"], params["o"])
    return x + jax.nn.gelu(x @ params["up"]) @ params["down"]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("how", ["split", "fresh"])
def test_heads_and_the_width_of_a_transformer(how):
    draw = np.random.default_rng(0)
    shapes = {**dict.fromkeys("qkv", (4, 2, 3)), "o": (2, 3, 4), "up": (4, 5), "down": (5, 4)}
    params = {name: draw.normal(size=shape) for name, shape in shapes.items()}
    x = draw.normal(size=(6, 4))
    spec = unit_spec(attention, params, x, check=False)
    [heads] = [g.name for g in spec.groups if g.size == 2 and g.is_splittable]
    wide = grow(params, spec, {heads: 1, "up": 2}, how=how, key=jax.random.key(0)).params
    assert (wide["q"].shape, wide["o"].shape, wide["up"].shape) == ((4, 3, 3), (3, 3, 4), (4, 7))
    np.testing.assert_allclose(attention(wide, x), attention(params, x), rtol=1e-11)


@pytest.mark.usefixtures("x64")
def test_layers_in_one_scan():
    """All layers grow at once: they are one leaf."""

    def network(params, x):
        def layer(x, own):
            return x + jnp.tanh(x @ own["up"] + own["b"]) @ own["down"], None

        return jax.lax.scan(layer, x, params)[0]

    draw = np.random.default_rng(0)
    shapes = {"up": (2, 3, 4), "b": (2, 4), "down": (2, 4, 3)}
    params = {name: draw.normal(size=shape) for name, shape in shapes.items()}
    x = draw.normal(size=(5, 3))
    spec = unit_spec(network, params, x, check=False)
    [name] = [group.name for group in spec.groups if group.size == 4]
    for how in ("split", "fresh"):
        wide = grow(params, spec, name, 2, how=how, key=jax.random.key(0)).params
        assert wide["up"].shape == (2, 3, 6)
        np.testing.assert_allclose(network(wide, x), network(params, x), rtol=1e-11)


def test_batch_statistics_beside_the_parameters():
    """As a pair, as the variables of Linen, or in one tree."""

    def network(tree, x):
        params, stats = tree["params"], tree["batch_stats"]
        h = (x @ params["in"]["w"] - stats["norm"]["mean"]) / jnp.sqrt(stats["norm"]["var"])
        return jnp.tanh(h) @ params["out"]["w"]

    draw = np.random.default_rng(0)
    params = {"in": {"w": draw.normal(size=(3, 4))}, "out": {"w": draw.normal(size=(4, 2))}}
    stats = {"norm": {"mean": draw.normal(size=4), "var": draw.uniform(1, 2, 4)}}
    both = {"params": params, "batch_stats": stats}
    x = draw.normal(size=(5, 3))

    def one(tree, x):
        return network({"params": tree, "batch_stats": tree}, x)

    def pair(tree, x):
        return network({"params": tree[0], "batch_stats": tree[1]}, x)

    functions = {network: both, pair: (params, stats), one: {**params, **stats}}
    for function, tree in functions.items():
        spec = unit_spec(function, tree, x)
        [group] = spec.groups
        wide = grow(params, spec, group.name, 2, batch_stats=stats, key=jax.random.key(0))
        new = {"params": wide.params, "batch_stats": wide.batch_stats}
        options = {"batch_stats": stats, "units": "gradient", "gradients": params, "spread": 0}
        assert widths(grow(params, spec, group.name, 1, **options).spec) == {group.name: 5}
        np.testing.assert_allclose(network(new, x), network(both, x), rtol=1e-5)
    with pytest.raises(ValueError, match="batch_stats/norm/mean' is missing"):
        grow(params, unit_spec(network, both, x, check=False), "params/in", 1, spread=0)


@pytest.mark.usefixtures("x64")
def test_what_breaks_the_symmetry():
    """Equal shares: never. Others: under SGD at once, under Adam after the outgoing weights."""
    params = jax.tree.map(jnp.asarray, weights(0))

    def gaps(optimizer, spread):
        """Between the incoming weights of the copies, after each step."""
        wide = grow(params, SPEC, "first", 1, units=[1], spread=spread, key=jax.random.key(0))
        new, state, found = wide.params, optimizer.init(wide.params), []
        for _ in range(3):
            updates, state = optimizer.update(gradient(new), state, new)
            new = optax.apply_updates(new, updates)
            found.append(float(jnp.abs(new["first"]["w"][:, 1] - new["first"]["w"][:, -1]).max()))
        return np.asarray(found)

    assert np.all(gaps(optax.sgd(0.1), 0) < 1e-12)
    assert np.all(gaps(optax.adam(0.1), 0) < 1e-6)
    assert np.all(gaps(optax.sgd(0.1), 0.5) > 1e-4)
    under_adam = gaps(optax.adam(0.1), 0.5)
    assert under_adam[0] < 1e-6
    assert np.all(under_adam[1:] > 1e-4)


def test_which_units_are_split():
    params = weights(1)
    outgoing = np.linalg.norm(params["second"]["w"], axis=1)
    grown = functools.partial(grow, params, SPEC, "first", spread=0)
    first = grown(2).params["first"]["w"]
    np.testing.assert_array_equal(first[:, 4:], params["first"]["w"][:, np.argsort(-outgoing)[:2]])
    gradients = weights(2)
    sizes = np.linalg.norm(np.vstack([gradients["first"]["w"], gradients["first"]["b"]]), axis=0)
    first = grown(1, units="gradient", gradients=gradients).params["first"]["w"]
    np.testing.assert_array_equal(first[:, 4], params["first"]["w"][:, np.argmax(sizes)])
    wide = grown(3, units=[2, 2, 0]).params
    np.testing.assert_array_equal(wide["first"]["w"][:, 4:], params["first"]["w"][:, [2, 2, 0]])
    shares = np.asarray([1 / 2, 1, 1 / 3, 1, 1 / 3, 1 / 3, 1 / 2])[:, None]
    units = [0, 1, 2, 3, 2, 2, 0]
    np.testing.assert_allclose(wide["second"]["w"], params["second"]["w"][units] * shares)
    # More units than there are: each again.
    assert grown(9).params["head"].shape == (3, 2)
    assert widths(grown(9).spec)["first"] == 13


def test_fresh_units():
    params = weights(0)
    wide = grow(params, SPEC, {"first": 2, "second": 1}, how="fresh", key=jax.random.key(0)).params
    assert not wide["second"]["w"][4:].any()
    assert not wide["head"][3:].any()
    size = np.sqrt(np.mean(np.square(params["first"]["w"])))
    assert 0.1 * size < np.abs(wide["first"]["w"][:, 4:]).mean() < 3 * size
    assert set(wide["first"]["b"][4:]) <= set(params["first"]["b"])
    init = weights(5, (3, 6, 4, 2))
    wide = grow(
        params, SPEC, {"first": 2, "second": 1}, how="fresh", key=jax.random.key(0), init=init
    ).params
    np.testing.assert_array_equal(wide["first"]["w"][:, 4:], init["first"]["w"][:, 4:])
    np.testing.assert_array_equal(wide["first"]["b"][4:], init["first"]["b"][4:])
    np.testing.assert_array_equal(wide["second"]["w"][:4, 3], init["second"]["w"][:4, 3])
    np.testing.assert_array_equal(wide["second"]["w"][:4, :3], params["second"]["w"])


@pytest.mark.usefixtures("x64")
def test_fresh_units_revive_a_dead_layer():
    """No unit is ever above zero, and splitting gives more of the same."""

    def network(params, x):
        return jax.nn.relu(x @ params["in"] - params["b"]) @ params["out"]

    params = {"in": np.ones((3, 2)), "b": np.full(2, 9.0), "out": np.ones((2, 1))}
    spec = unit_spec(network, params, X)
    init = {"in": np.ones((3, 3)), "b": np.zeros(3), "out": np.ones((3, 1))}
    key = jax.random.key(0)
    slope = jax.grad(lambda params: network(params, X).sum())
    split = grow(params, spec, "in", 1, key=key).params
    fresh = grow(params, spec, "in", 1, how="fresh", init=init, key=key).params
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(slope(split)))
    assert np.any(slope(fresh)["out"])


def test_dtypes_and_kinds_of_arrays_stay():
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), weights(0))
    wide = grow(params, SPEC, {"first": 2}, key=jax.random.key(0)).params
    assert {leaf.dtype for leaf in jax.tree.leaves(wide)} == {np.dtype(jnp.bfloat16)}
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(wide))
    wide = grow(weights(0), SPEC, {"first": 2}, key=jax.random.key(0)).params
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(wide))


def test_nothing_given_is_changed():
    params = weights(0)
    grow(params, SPEC, {"first": 2}, key=jax.random.key(0))
    assert_close(params, weights(0), 0)


KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("head", 1), {"key": KEY}, "no group 'head'.* Inputs, outputs .* have no group"),
        (("first", 0), {"key": KEY}, "num_units must be an integer of at least 1, got 0"),
        (("first", 1.5), {"key": KEY}, "num_units must be an integer of at least 1, got 1.5"),
        (({"first": 1}, 1), {"key": KEY}, "a mapping of groups to numbers of units alone"),
        (("first", None), {"key": KEY}, "pass one group and num_units"),
        (({},), {"key": KEY}, "at least one group"),
        (("first", 1), {}, r"shares of the copies are drawn at random: pass key=jax.random.key"),
        (("first", 1), {"how": "fresh"}, "fresh units are drawn at random: pass key="),
        (("first", 1), {"how": "copy"}, 'how must be "split" or "fresh", got \'copy\''),
        (("first", 1), {"spread": 1.0}, "spread must be at least 0 and below 1, got 1.0"),
        (("first", 1), {"units": [4], "spread": 0}, r"needs 1 of its units 0, ..., 3 to split"),
        (("first", 1), {"units": [0, 1], "spread": 0}, "needs 1 of its units"),
        (("first", 1), {"units": {"second": [1]}, "spread": 0}, "needs 1 of its units"),
        (("first", 1), {"units": "gradient", "spread": 0}, "'gradient' without gradients"),
        (
            ("first", 1),
            {"units": "gradient", "gradients": weights(0, (3, 5, 3, 2)), "spread": 0},
            r"gradients have shape \(5,\) for first/b",
        ),
        (("first", 1), {"init": {}, "spread": 0}, 'pass how="fresh" with it'),
        (
            ("first", 1),
            {"init": weights(0), "how": "fresh", "key": KEY},
            r"init has shape \(4,\) for first/b, its new shape is \(5,\)",
        ),
        (("first", 1), {"optimizer_state": (), "key": KEY}, "pass optimizer="),
    ],
)
def test_bad_arguments(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        grow(weights(0), SPEC, *arguments, **options)


def test_bad_networks():
    params = {"in": np.ones((3, 4)), "out": np.ones((4, 2))}

    def normed(params, x):
        return jax.nn.softmax(x @ params["in"]) @ params["out"]

    spec = unit_spec(normed, params, X, check=False)
    with pytest.raises(ValueError, match=r"'in' cannot be changed .* a softmax over them"):
        grow(params, spec, "in", 1, spread=0)
    members = tuple(m._replace(is_read=m.path == ("out",)) for m in spec.group("in").members)
    wrong = UnitSpec((Group("in", 4, members),), spec.leaves)
    with pytest.raises(UnitSpecError, match="splitting group 'in'"):
        grow(params, wrong, "in", 1, spread=0, check=(normed, X))
    with pytest.raises(ValueError, match=r"'out' has shape \(5, 2\), the spec was made for"):
        grow({**params, "out": np.ones((5, 2))}, wrong, "in", 1, spread=0)
    zero = {"in": np.zeros((3, 4)), "out": np.ones((4, 2))}
    with pytest.raises(ValueError, match=r"weights that go into group 'in' are zero.* pass init="):
        grow(zero, wrong, "in", 1, how="fresh", key=KEY)
    with pytest.raises(ValueError, match=r"is traced: .* outside of jax\.jit"):
        jax.jit(lambda params: grow(params, SPEC, "first", 1, spread=0).params)(weights(0))


def test_a_sound_spec_passes_its_check():
    grow(weights(0), SPEC, "first", 1, spread=0, check=(predict, X))
