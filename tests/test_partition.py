import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfn_optax.partition import (
    block_energies,
    block_norms,
    partition,
    scale_blocks,
    unblocked_energy,
)
from tests.tolerance import rtol
from tests.trees import TREES, dense

pytestmark = pytest.mark.usefixtures("unoptimized")

LAYERS = {
    "linen": (("Conv_0", (16, 4)), ("Dense_0", (10,))),
    "nnx": (("layers/0", (16, 4)), ("layers/2", (10,))),
    "haiku": (("mlp/~/linear_0", (16, 4)), ("mlp/~/linear_1", (10,))),
    "nested dicts": (("net/Dense_0", (16, 4)), ("net/Dense_1", (10,))),
    "list": (("0", (16, 4)), ("2", (10,))),
    "flat dict": (("w1", (16, 4)), ("w2", (10,))),
    "pairs": (("0", (16, 4)), ("1", (10,))),
    "bare array": (("params", (16, 4)),),
    "bare vector": (("params", (16, 16, 8)),),
    "scalar": (("params", (1,)),),
}


@pytest.mark.parametrize("name", TREES)
def test_layers_of_every_kind_of_tree(name):
    layout = partition(TREES[name]())
    assert tuple((layer.name, layer.block_sizes) for layer in layout.layers) == LAYERS[name]


@pytest.mark.parametrize(
    "name", ["linen", "nnx", "haiku", "nested dicts", "list", "flat dict", "pairs"]
)
def test_biases_follow_their_matrix(name):
    assert [len(layer.axes) for layer in partition(TREES[name]()).layers] == [2, 2]


@pytest.mark.parametrize("name", ["linen", "nnx"])
def test_normalisation_is_in_no_block(name):
    unblocked = partition(TREES[name]()).unblocked
    assert sorted(path.split("/")[-1] for path in unblocked) == ["bias", "scale"]


def test_layers_are_in_natural_order():
    params = {f"Conv_{i}": {"kernel": jnp.ones((1, 1))} for i in range(12)}
    assert [layer.name for layer in partition(params).layers] == [f"Conv_{i}" for i in range(12)]


def test_only_names_and_shapes_matter():
    params = TREES["linen"]()
    assert partition(params) is partition(jax.eval_shape(lambda: params))


@given(num_units=st.integers(1, 70), block_size=st.integers(1, 80))
def test_block_size(num_units, block_size):
    [layer] = partition(
        {"w": jax.ShapeDtypeStruct((3, num_units), "float32")}, block_size=block_size
    ).layers
    *full, last = layer.block_sizes
    assert all(size == block_size for size in full)
    assert 0 < last <= block_size
    assert sum(layer.block_sizes) == num_units


@given(num_units=st.integers(1, 70), num_blocks=st.integers(1, 80))
def test_num_blocks(num_units, num_blocks):
    [layer] = partition(
        {"w": jax.ShapeDtypeStruct((3, num_units), "float32")}, num_blocks=num_blocks
    ).layers
    assert layer.num_blocks == min(num_units, num_blocks)
    assert max(layer.block_sizes) - min(layer.block_sizes) <= 1
    assert sum(layer.block_sizes) == num_units


def test_norms_against_numpy():
    params = dense(0, 5, 7, 3)
    layout = partition(params, block_size=4)
    expected = [
        np.sqrt(np.sum(kernel[:, part] ** 2) + np.sum(bias[part] ** 2))
        for kernel, bias in (
            (np.asarray(p["kernel"], np.float64), np.asarray(p["bias"], np.float64))
            for p in params.values()
        )
        for part in (slice(0, 4), slice(4, 8))
        if kernel[:, part].size
    ]
    np.testing.assert_allclose(block_norms(layout, params), expected, rtol=rtol())


def test_output_axis_by_number_and_by_function():
    params = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.arange(6.0).reshape(2, 3)}
    rows = partition(params, block_size=1, output_axis=0)
    np.testing.assert_allclose(block_energies(rows, rows.leaves(params))[:2], [5, 50])
    mixed = partition(
        params, block_size=1, output_axis=lambda path, shape: 0 if path == "a" else -1
    )
    assert [layer.num_units for layer in mixed.layers] == [2, 3]


def test_energy_adds_up_however_finely_it_is_cut():
    params = dense(1, 6, 13, 11)
    total = sum(np.sum(np.square(np.asarray(x, np.float64))) for x in jax.tree.leaves(params))
    for options in ({"block_size": 1}, {"block_size": 5}, {"num_blocks": 4}, {"num_blocks": 1}):
        layout = partition(params, **options)
        energies = block_energies(layout, layout.leaves(params))
        np.testing.assert_allclose(energies.sum(), total, rtol=rtol())


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.complex64])
def test_dtypes_are_kept_and_measured_in_float32(dtype, strict):
    params = {"w": jnp.full((2, 3), 2, dtype), "n": jnp.full(5, 3, dtype)}
    layout = partition(params, block_size=2)
    energies = block_energies(layout, layout.leaves(params))
    assert energies.dtype == jnp.float32
    np.testing.assert_allclose(energies, [16, 8])
    np.testing.assert_allclose(unblocked_energy(layout, params), 45)
    scaled = scale_blocks(layout, params, jnp.array([1.0, 3.0]), rest=jnp.float32(0.5))
    chex.assert_trees_all_equal_dtypes(scaled, params)
    np.testing.assert_allclose(np.abs(np.asarray(scaled["w"], np.complex64))[0], [2, 2, 6])
    np.testing.assert_allclose(np.abs(np.asarray(scaled["n"], np.complex64)), 1.5)


def test_scaling_by_one_changes_no_bit():
    params = TREES["linen"]()
    layout = partition(params)
    chex.assert_trees_all_equal(scale_blocks(layout, params, jnp.ones(layout.num_blocks)), params)


@given(st.lists(st.floats(0.1, 10), min_size=4, max_size=4))
def test_scaling_scales_the_norms(multipliers):
    params = dense(2, 4, 20, 20)
    layout = partition(params, block_size=16)
    factors = jnp.asarray(multipliers, jnp.float32)
    scaled = block_norms(layout, scale_blocks(layout, params, factors))
    np.testing.assert_allclose(scaled, factors * block_norms(layout, params), rtol=rtol())


def test_eager_is_jit_is_vmap():
    params = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), dense(3, 4, 20, 10))
    layout = partition(dense(3, 4, 20, 10))
    single = [block_norms(layout, jax.tree.map(lambda x, i=i: x[i], params)) for i in range(2)]
    batched = jax.vmap(lambda p: block_norms(layout, p))(params)
    np.testing.assert_allclose(batched, np.stack(single), rtol=rtol())
    jitted = jax.jit(lambda p: block_norms(layout, p))(jax.tree.map(lambda x: x[0], params))
    np.testing.assert_allclose(jitted, single[0], rtol=rtol())


def test_leaves_without_gradient_are_left_out():
    params = {"w": jnp.ones((2, 3)), "steps": jnp.arange(3), "empty": jnp.zeros((0, 4))}
    layout = partition(params)
    assert [layer.name for layer in layout.layers] == ["w"]
    scaled = scale_blocks(layout, params, jnp.array([2.0]))
    chex.assert_trees_all_equal(scaled, {**params, "w": 2 * params["w"]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 0}, "block_size must be a positive"),
        ({"num_blocks": -1}, "num_blocks must be a positive"),
        ({"block_size": 2.5}, "block_size must be a positive"),
        ({"block_size": 2, "num_blocks": 2}, "not both"),
        (
            {"output_axis": 2},
            r"output_axis must lie in \[-2, 2\) for 'a/kernel' with shape \(2, 3\)",
        ),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        partition({"a": {"kernel": jnp.ones((2, 3))}}, **options)


def test_a_tree_without_a_leaf_of_the_blocks():
    params = dense(0, 4, 5)
    with pytest.raises(ValueError, match="no leaf 'Dense_0/bias'"):
        partition(params).leaves({"Dense_0": {"kernel": jnp.ones((4, 5))}})


def test_biases_with_many_axes_follow_their_matrix():
    params = {
        "query": {"kernel": jnp.ones((6, 2, 3)), "bias": jnp.ones((2, 3))},  # attention heads
        "stack": {"kernel": jnp.ones((5, 6, 4)), "bias": jnp.ones((5, 4))},  # layers of a scan
    }
    layers = partition(params).layers
    assert [layer.name for layer in layers] == ["query", "stack"]
    assert [layer.axes for layer in layers] == [
        ((("query", "kernel"), 2), (("query", "bias"), 1)),
        ((("stack", "kernel"), 2), (("stack", "bias"), 1)),
    ]
    grads = jax.tree.map(lambda leaf: 2 * leaf, params)
    energies = np.square(block_norms(partition(params), grads))
    np.testing.assert_allclose(energies, [4 * (36 + 6), 4 * (120 + 20)], rtol=1e-6)
