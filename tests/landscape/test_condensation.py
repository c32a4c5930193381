"""Condensing merges units that are alike, loses nothing where they are parallel, and refits."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from pfn_optax.landscape import condense, widen
from pfn_optax.units import merge_units, unit_spec

pytestmark = pytest.mark.usefixtures("unoptimized")

X = np.random.default_rng(0).normal(size=(50, 4))


def network(activation, params, x):
    for layer in ("first", "second"):
        x = activation(x @ params[layer]["w"] + params[layer]["b"])
    return x @ params["head"]


relu = functools.partial(network, jax.nn.relu)
tanh = functools.partial(network, jnp.tanh)


def weights(seed, first=3, second=2):
    draw = np.random.default_rng(seed)
    return {
        "first": {"w": draw.normal(size=(4, first)), "b": draw.normal(size=first)},
        "second": {"w": draw.normal(size=(first, second)), "b": draw.normal(size=second)},
        "head": draw.normal(size=(second, 3)),
    }


RELU_SPEC, TANH_SPEC = (unit_spec(function, weights(0), X) for function in (relu, tanh))
WIDTHS = {"first": 8, "second": 5}
WIDE_SPEC = unit_spec(relu, weights(0, *WIDTHS.values()), X)


def multiples(seed):
    """A network whose units are multiples of 3 and 2, in any order, with their directions."""
    draw = np.random.default_rng(seed)
    wide, spec = widen(weights(seed), RELU_SPEC, WIDTHS)
    scales = {name: draw.uniform(0.2, 5, width) for name, width in WIDTHS.items()}
    orders = {name: draw.permutation(width) for name, width in WIDTHS.items()}
    # Of each copy its own part, not only its own length.
    return spec.permute(spec.rescale(wide, scales), orders), orders


@pytest.mark.usefixtures("x64")
@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_parallel_relus_are_merged_without_loss(seed):
    params, orders = multiples(seed)
    small = condense(params, WIDE_SPEC, similarity=1 - 1e-9, amplitude=0)
    assert small.spec == RELU_SPEC
    for name, size in (("first", 3), ("second", 2)):
        # Units of one origin, which `widen` copies in turn.
        origins = [{orders[name][k] % size for k in units} for units in small.clusters[name][0]]
        assert sorted(origins, key=min) == [{k} for k in range(size)]
    np.testing.assert_allclose(relu(small.params, X), relu(params, X), rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_embedding_what_was_condensed_closes_the_circle():
    """From the wide network to the narrow one, wider again by copies, and back to the narrow."""
    params, _ = multiples(3)
    small = condense(params, WIDE_SPEC, similarity=0.999, amplitude=0)
    wide = widen(small.params, small.spec, WIDTHS, key=jax.random.key(0))
    assert wide.spec == WIDE_SPEC
    np.testing.assert_allclose(relu(wide.params, X), relu(params, X), rtol=1e-9, atol=1e-9)
    again = condense(*wide, similarity=0.999, amplitude=0)
    assert again.spec == small.spec
    np.testing.assert_allclose(relu(again.params, X), relu(params, X), rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_a_cluster_is_as_wide_as_the_similarity_everywhere():
    """Directions 20 degrees apart: single linkage would make a chain of them all."""
    angles = np.deg2rad([0, 20, 40, 60, 80])
    params = {"in": np.stack([np.cos(angles), np.sin(angles)]), "out": np.ones((5, 1))}

    def predict(params, x):
        return jax.nn.relu(x @ params["in"]) @ params["out"]

    spec = unit_spec(predict, params, np.ones((1, 2)))
    for similarity, largest in ((0.95, 1), (0.9, 2), (0.76, 3)):
        members = condense(params, spec, similarity=similarity).clusters["in"].members
        assert max(map(len, members)) == largest
        for units in members:
            assert np.cos(angles[list(units)][:, None] - angles[list(units)]).min() >= similarity
    assert [condense(params, spec, sizes={"in": n}).spec.groups[0].size for n in (1, 2, 4)] == [
        1,
        2,
        4,
    ]


@pytest.mark.usefixtures("x64")
def test_powers_of_relus_are_merged_without_loss():
    """A square of a unit c times as long is c squared as large."""
    draw = np.random.default_rng(5)
    first = draw.normal(size=(4, 2))
    params = {"in": np.hstack([first, 3 * first]), "out": draw.normal(size=(4, 3))}

    def predict(params, x):
        return jnp.square(jax.nn.relu(x @ params["in"])) @ params["out"]

    spec = unit_spec(predict, params, X)
    small = condense(params, spec, similarity=0.999, amplitude=0)
    assert small.params["in"].shape == (4, 2)
    np.testing.assert_allclose(predict(small.params, X), predict(params, X), rtol=1e-9)

    def both(params, x):  # no one ratio is right for the two that read them
        return predict(params, x) + jax.nn.relu(x @ params["in"]) @ params["plain"]

    params |= {"plain": params["out"]}
    with pytest.raises(ValueError, match="group 'in' are not homogeneous"):
        condense(params, unit_spec(both, params, X))


@pytest.mark.usefixtures("x64")
def test_opposite_tanh_units_are_one():
    wide, spec = widen(weights(1), TANH_SPEC, WIDTHS)
    signs = {"first": np.where(np.arange(8) < 4, 1, -1), "second": [1, -1, 1, -1, 1]}
    params = spec.flip(wide, signs)
    small = condense(params, spec, similarity=0.999, amplitude=0, function=tanh, batches=[(X,)])
    assert small.spec == TANH_SPEC
    assert small.comparison.agreement == 1
    assert small.comparison.output_change < 1e-9
    np.testing.assert_allclose(tanh(small.params, X), tanh(params, X), rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("function", [relu, tanh])
def test_a_refit_is_least_squares_on_the_rows_of_all_batches(function):
    """Against NumPy's own solution for the weights that read the units that stay."""
    params = weights(7, 6, 5)
    spec = unit_spec(function, params, X)
    batches = [(X[:25],), (X[25:],)]
    small = condense(
        params,
        spec,
        sizes={"second": 3},
        amplitude=0,
        function=function,
        batches=batches,
        ridge=1e-13,
    )
    hidden = {relu: jax.nn.relu, tanh: jnp.tanh}[function]
    inputs = hidden(X @ params["first"]["w"] + params["first"]["b"])
    units = np.asarray(hidden(inputs @ params["second"]["w"] + params["second"]["b"]))
    kept = small.clusters["second"].kept
    expected = np.linalg.lstsq(units[:, kept], units @ params["head"])[0]
    np.testing.assert_allclose(small.params["head"], expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(small.params["second"]["w"], params["second"]["w"][:, kept])


@pytest.mark.usefixtures("x64")
def test_removed_units_live_on_in_the_refit_alone():
    params = weights(2)
    params["head"][1] *= 1e-4
    plain = condense(params, RELU_SPEC, sizes={"second": None}, similarity=1)
    assert plain.clusters["second"].removed == (1,)
    np.testing.assert_array_equal(plain.params["head"], params["head"][:1])
    refit = condense(
        params, RELU_SPEC, sizes={"second": None}, similarity=1, function=relu, batches=[(X,)]
    )
    errors = [np.square(relu(small.params, X) - relu(params, X)).sum() for small in (plain, refit)]
    assert 0 < errors[1] < errors[0]


@pytest.mark.usefixtures("x64")
def test_channels_of_convolutions_and_flattened_pixels():
    """Copies of channels, scaled, with batch statistics of their own, found and refitted."""
    draw = np.random.default_rng(0)
    params = {
        "conv": draw.normal(size=(3, 3, 1, 2)),
        "scale": draw.uniform(1, 2, 2),
        "shift": draw.normal(size=2),
        "head": draw.normal(size=(3 * 3 * 2, 3)),
    }
    images = draw.normal(size=(6, 3, 3, 1))

    def predict(params, x):
        x = jax.lax.conv_general_dilated(
            x, params["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x * params["scale"] + params["shift"])
        return x.reshape(len(x), -1) @ params["head"]

    spec = unit_spec(predict, params, images)
    [group] = spec.groups
    wide, wide_spec = widen(params, spec, {group.name: 5}, key=jax.random.key(1))
    small = condense(
        wide, wide_spec, similarity=0.999, amplitude=0, function=predict, batches=[(images,)]
    )
    assert small.spec == spec
    assert small.comparison.output_change < 1e-9


@pytest.mark.usefixtures("x64")
def test_units_twice_on_an_axis_between_others():
    """The head reads them before and after another layer's units."""
    draw = np.random.default_rng(8)
    shapes = {"in": (4, 2), "other": (4, 3), "head": (7, 3)}
    params = {name: draw.normal(size=shape) for name, shape in shapes.items()}

    def predict(params, x):
        units = jax.nn.relu(x @ params["in"])
        return jnp.hstack([units, jax.nn.relu(x @ params["other"]), -units]) @ params["head"]

    spec = unit_spec(predict, params, X)
    wide, wide_spec = widen(params, spec, {"in": 5, "other": 4})
    small = condense(wide_spec.rescale(wide, {"in": [1, 2, 3, 4, 5]}), wide_spec, similarity=0.999)
    assert small.spec == spec
    np.testing.assert_allclose(predict(small.params, X), predict(params, X), rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_the_comparison_is_of_the_trained_network_and_the_rebuilt_function():
    """A function that knows its widths, labels that only the loss reads, a step of training."""
    params = weights(4, 6, 5)
    labels = np.random.default_rng(1).integers(0, 3, len(X))

    def fixed(widths):
        def predict(params, x, labels):
            del labels
            assert params["first"]["b"].shape == (widths,)
            return relu(params, x)

        return predict

    def loss(outputs, x, labels):
        del x
        picked = jax.nn.log_softmax(outputs)[jnp.arange(len(labels)), labels]
        return -picked.mean()

    def trained(small, spec):
        assert spec.group("first").size == small["first"]["b"].size == 3
        return {**small, "head": 2 * small["head"]}

    spec = unit_spec(relu, params, X)
    small = condense(
        params,
        spec,
        sizes={"first": 3},
        amplitude=0,
        function=fixed(6),
        batches=[(X[:25], labels[:25]), (X[25:], labels[25:])],
        loss=loss,
        rebuild=lambda spec: fixed(spec.group("first").size),
        fine_tune=trained,
    )
    before, after = (relu(tree, X) for tree in (params, small.params))
    assert small.comparison.agreement == pytest.approx(
        np.mean(np.argmax(before, -1) == np.argmax(after, -1))
    )
    assert small.comparison.output_change == pytest.approx(
        float(np.linalg.norm(after - before) / np.linalg.norm(before))
    )
    assert small.comparison.loss_change == pytest.approx(
        float(loss(after, X, labels) - loss(before, X, labels))
    )


def test_dtypes_stay():
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), weights(0))
    small = condense(params, RELU_SPEC, sizes={"first": 2})
    assert {leaf.dtype for leaf in jax.tree.leaves(small.params)} == {np.dtype(jnp.bfloat16)}


def test_a_layer_keeps_one_unit_at_least():
    params = jax.tree.map(np.zeros_like, weights(0))
    small = condense(params, RELU_SPEC)
    assert [group.size for group in small.spec.groups] == [1, 1]
    assert small.clusters["first"].removed == (1, 2)


def test_refusals():
    params = weights(0)
    with pytest.raises(ValueError, match=r"'first' are not homogeneous .* Give function and batch"):
        condense(params, TANH_SPEC)
    with pytest.raises(ValueError, match=r"needs function and batches together"):
        condense(params, RELU_SPEC, function=relu)
    with pytest.raises(
        ValueError, match=r"'first' has 3 units with more than 0.01 .* got the size"
    ):
        condense(params, RELU_SPEC, sizes={"first": 4})
    with pytest.raises(ValueError, match=r"no group 'frist'; groups are named by module: first"):
        condense(params, RELU_SPEC, sizes={"frist": 2})
    with pytest.raises(ValueError, match=r"similarity must be above 0 and at most 1, got 1.5"):
        condense(params, RELU_SPEC, similarity=1.5)
    with pytest.raises(ValueError, match=r"amplitude must be at least 0 and below 1, got -1"):
        condense(params, RELU_SPEC, amplitude=-1)
    with pytest.raises(ValueError, match=r"ridge must be positive, got 0"):
        condense(params, RELU_SPEC, ridge=0)
    with pytest.raises(ValueError, match=r"'head' has shape .* the spec was made for shape"):
        condense(params | {"head": np.ones((7, 3))}, RELU_SPEC)

    def scalar(params, x):
        return relu(params, x).sum()

    with pytest.raises(ValueError, match=r"must be single arrays .* got \(\) and \(\)"):
        condense(params, RELU_SPEC, sizes={"first": 2}, function=scalar, batches=[(X,)])

    def attention(params, x):
        return jax.nn.softmax(x @ params["in"]) @ params["out"]

    own = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}
    spec = unit_spec(attention, own, jnp.ones((1, 3)))
    with pytest.raises(ValueError, match=r"group 'in' cannot be merged: .* a softmax over them"):
        condense(own, spec, sizes={"in": 2})
    assert condense(own, spec).spec == spec  # by default it is left out


@pytest.mark.usefixtures("x64")
def test_units_of_a_recurrent_network_are_read_where_they_leave_the_loop():
    """They stand on both axes of one leaf; those of a layer within the loop cannot be read."""
    draw = np.random.default_rng(0)
    params = {
        "in": draw.normal(size=(4, 2)),
        "own": draw.normal(size=(2, 2)),
        "inner": draw.normal(size=(2, 3)),
        "back": draw.normal(size=(3, 2)),
        "out": draw.normal(size=(2, 1)),
    }

    def elman(params, x):
        def step(state, row):
            state = jnp.tanh(row @ params["in"] + state @ params["own"])
            return state + jnp.tanh(state @ params["inner"]) @ params["back"], None

        start = jnp.zeros((len(x), params["own"].shape[0]))
        return jax.lax.scan(step, start, jnp.stack([x, x / 2]))[0] @ params["out"]

    spec = unit_spec(elman, params, X, check=False)
    states, inner = (
        next(group.name for group in spec.groups if group.size == size) for size in (2, 3)
    )
    wide = widen(params, spec, {states: 4})
    data = {"function": elman, "batches": [(X,)], "amplitude": 0}
    small = condense(*wide, sizes={states: 2}, **data)
    assert small.spec == spec
    np.testing.assert_allclose(elman(small.params, X), elman(params, X), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match=f"group {inner!r} cannot be read off the function"):
        condense(params, spec, sizes={inner: 2}, **data)


def test_merging_inside_of_jit_and_refusals():
    params = weights(6)
    kept, mixing = np.asarray([2, 0]), np.random.default_rng(0).normal(size=(2, 3))

    def merged(mixing):
        return merge_units(RELU_SPEC, params, {"first": kept}, {"first": mixing})[0]

    eager, compiled = merged(mixing), jax.jit(merged)(mixing)
    np.testing.assert_allclose(eager["second"]["w"], mixing @ params["second"]["w"])
    np.testing.assert_array_equal(eager["first"]["b"], params["first"]["b"][kept])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), eager, compiled)
    several = jax.vmap(merged)(np.stack([mixing, 2 * mixing]))["second"]["w"]
    np.testing.assert_allclose(several[1], 2 * eager["second"]["w"], rtol=1e-5)
    for units, match in (([3], r"its units 0, \.\.\., 2, got \[3\]"), ([0.5], "its units")):
        with pytest.raises(ValueError, match=match):
            merge_units(RELU_SPEC, params, {"first": units}, {"first": np.ones((1, 3))})
    with pytest.raises(ValueError, match=r"a mixing of shape \(1, 3\), .* shape \(3, 1\)"):
        merge_units(RELU_SPEC, params, {"first": [0]}, {"first": np.ones((3, 1))})
