"""Products against the dense matrices of jax.hessian and jax.jacobian."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from pfn_optax.curvature import dense_matrix, gauss_newton_operator, hessian_operator
from tests.curvature.models import data, hessian, loss, network, parameters, squared_error
from tests.tolerance import rtol

UNEVEN = (0, 5, 7, 12)  # batches of 5, 2 and 5 examples


def batches_of(args, ends=UNEVEN):
    return [tuple(arg[a:b] for arg in args) for a, b in itertools.pairwise(ends)]


@pytest.mark.usefixtures("x64")
def test_hessian_is_that_of_jax():
    params, args = parameters(), data()
    expected = hessian(params, *args)
    np.testing.assert_allclose(
        dense_matrix(hessian_operator(loss, params, *args)), expected, rtol=0, atol=1e-13
    )
    vector = parameters(seed=1)
    product = hessian_operator(loss, params, *args)(vector)
    chex.assert_trees_all_equal_shapes_and_dtypes(product, params)
    np.testing.assert_allclose(
        ravel_pytree(product)[0], expected @ ravel_pytree(vector)[0], rtol=0, atol=1e-12
    )


@pytest.mark.usefixtures("x64")
def test_gauss_newton_is_jacobian_loss_hessian_jacobian():
    params, (inputs, targets) = parameters(), data()
    flat, unravel = ravel_pytree(params)
    jacobian = jax.jacobian(lambda flat: network(unravel(flat), inputs).ravel())(flat)
    # The squared error summed over outputs and averaged over examples has the Hessian 2 I / N.
    expected = 2 * jacobian.T @ jacobian / len(inputs)
    operator = gauss_newton_operator(network, squared_error, params, inputs, targets)
    np.testing.assert_allclose(dense_matrix(operator), expected, rtol=0, atol=1e-13)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("form", ["list", "function", "generator function"])
def test_mean_over_batches_of_any_size_is_the_whole(form):
    params, args = parameters(), data()
    listed = batches_of(args)
    batches = {
        "list": listed,
        "function": lambda: listed,
        "generator function": lambda: (batch for batch in listed),
    }[form]
    operator = hessian_operator(loss, params, batches=batches)
    vector = parameters(seed=1)
    expected = hessian_operator(loss, params, *args)(vector)
    for _ in range(2):  # the data can be gone through again
        chex.assert_trees_all_close(operator(vector), expected, rtol=0, atol=1e-13)


@pytest.mark.usefixtures("x64")
def test_gauss_newton_and_dense_matrices_over_batches():
    params, (inputs, targets) = parameters(), data()
    batches = batches_of((inputs, targets))
    whole = gauss_newton_operator(network, squared_error, params, inputs, targets)
    parts = gauss_newton_operator(network, squared_error, params, batches=batches)
    np.testing.assert_allclose(dense_matrix(parts), dense_matrix(whole), rtol=0, atol=1e-13)


def test_a_batch_may_be_a_single_argument():
    operator = hessian_operator(lambda p, x: jnp.mean(x * p**2), 1.0, batches=[np.ones(3)])
    assert operator(jnp.float32(1)) == 2


def test_eager_is_jit_is_vmap():
    params, args = parameters(), data()
    operator = hessian_operator(loss, params, *args)
    vectors = [parameters(seed) for seed in (1, 2, 3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *vectors)
    mapped = jax.vmap(lambda vector: operator(vector))(stacked)
    compiled = jax.jit(lambda operator, vector: operator(vector))
    for index, vector in enumerate(vectors):
        product = operator(vector)
        chex.assert_trees_all_close(compiled(operator, vector), product, rtol=rtol(), atol=1e-5)
        one = jax.tree.map(lambda leaf, index=index: leaf[index], mapped)
        chex.assert_trees_all_close(one, product, rtol=rtol(), atol=1e-5)


def test_new_parameters_and_data_compile_nothing():
    traces = []

    def counted(params, x):
        traces.append(1)
        return jnp.sum(params * x) ** 2

    for scale in (1.0, 2.0, 3.0):
        vector = jnp.array([1.0, 0.0])
        product = hessian_operator(counted, jnp.ones(2) * scale, jnp.ones(2) * scale)(vector)
        np.testing.assert_allclose(product, 2 * scale**2 * np.ones(2))
    assert len(traces) == 1


def test_half_precision_parameters_take_wide_vectors():
    params = jnp.ones(3, jnp.bfloat16)
    product = hessian_operator(lambda p: jnp.sum(p**2), params)(jnp.ones(3))
    assert product.dtype == jnp.float32
    np.testing.assert_allclose(product, 2)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "no leaves"),
        ({"a": {"b": jnp.ones(2, jnp.complex64)}}, "a/b is complex64.*real and imaginary"),
        ({"steps": jnp.arange(3)}, "steps is int32.*an argument of the loss"),
        (jnp.arange(3), "the root is int32"),
    ],
)
def test_parameters_without_curvature_are_named(params, message):
    with pytest.raises(ValueError, match=message):
        hessian_operator(lambda p: 0.0, params)


def test_data_that_ends_is_refused():
    with pytest.raises(ValueError, match="empty after the first product"):
        hessian_operator(loss, parameters(), batches=iter(batches_of(data())))


@pytest.mark.parametrize(
    ("batches", "message"), [([], "no batches with examples"), ([1.0], "first axis counts")]
)
def test_batches_without_examples(batches, message):
    operator = hessian_operator(lambda p, x: jnp.sum(x * p), jnp.ones(2), batches=batches)
    with pytest.raises(ValueError, match=message):
        operator(jnp.ones(2))
