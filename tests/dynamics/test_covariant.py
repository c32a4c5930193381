"""Covariant vectors: carried into one another, growing with the exponents."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax.dynamics import (
    DynamicsError,
    DynamicsStatus,
    classic,
    covariant_vectors,
    lyapunov_spectrum,
)
from tests.dynamics.oracles import weights

pytestmark = pytest.mark.usefixtures("x64")


@functools.cache
def henon_chunk():
    found = covariant_vectors(classic.henon, jnp.array([0.8, 0.15]), num_steps=400)
    return jax.tree.map(np.asarray, found)


def test_the_jacobian_carries_each_vector_into_the_next():
    found = henon_chunk()
    x, y = found.states.T
    np.testing.assert_allclose(np.stack([1 - 1.4 * x**2 + y, 0.3 * x])[:, :-1], found.states[1:].T)
    jacobians = np.stack([-2.8 * x, 1 + 0 * x, 0.3 + 0 * x, 0 * x]).T.reshape(-1, 2, 2)
    images = np.einsum("tij,tkj->tki", jacobians, found.vectors)
    lengths = np.linalg.norm(images, axis=-1)
    np.testing.assert_allclose(np.log(lengths), found.growth, atol=1e-8)
    cosines = np.einsum("tki,tki->tk", images[:-1] / lengths[:-1, :, None], found.vectors[1:])
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=-1), 1, rtol=1e-12)
    assert found.status == DynamicsStatus.FINISHED


def test_the_growth_is_the_exponents():
    found = henon_chunk()
    np.testing.assert_allclose(found.growth.mean(axis=0), found.exponents)
    run = functools.partial(lyapunov_spectrum, classic.henon, jnp.array([0.8, 0.15]))
    expected = run(num_steps=400, num_transient=100)
    np.testing.assert_allclose(found.exponents, expected.exponents, atol=0.01)


def test_the_cat_map_has_the_same_two_directions_everywhere():
    found = covariant_vectors(classic.cat_map, jnp.array([0.1, 0.3]), num_steps=20, time_step=0.5)
    values, directions = np.linalg.eigh([[2.0, 1.0], [1.0, 1.0]])
    cosines = np.abs(np.einsum("tki,ik->tk", found.vectors, directions[:, ::-1]))
    np.testing.assert_allclose(cosines, 1, rtol=1e-12)
    np.testing.assert_allclose(found.exponents, np.log(values[::-1]) / 0.5, rtol=1e-12)


def test_some_vectors_of_a_driven_tree_are_the_first_of_all():
    matrix = jnp.diag(jnp.array([1.2, 0.9, 0.6, 0.4, 0.3, 0.1])) + weights(0) / 20
    inputs = np.linspace(-0.1, 0.1, 70)

    def step(state, x):
        return {"h": jnp.tanh(matrix @ state["h"] + x)}

    run = functools.partial(
        covariant_vectors, step, {"h": jnp.ones(6)}, inputs=inputs, num_transient=30
    )
    some, whole = run(num_exponents=2), run()
    assert some.vectors["h"].shape == (10, 2, 6)
    cosines = np.einsum("tki,tki->tk", some.vectors["h"], whole.vectors["h"][:, :2])
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-3)


def test_bad_input():
    with pytest.raises(ValueError, match="and 200 transient steps need 205 inputs, got 5"):
        covariant_vectors(lambda x, u: x, jnp.ones(2), inputs=jnp.ones(5), num_steps=5)
    with pytest.raises(ValueError, match="time_step must be positive"):
        covariant_vectors(classic.henon, jnp.ones(2), num_steps=5, time_step=-1.0)
    with pytest.raises(DynamicsError, match="step 5 "):
        covariant_vectors(lambda x: x**3, 9 * jnp.ones(2), num_steps=5, num_transient=1)
