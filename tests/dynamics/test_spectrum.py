"""Spectra with known answers, and what must leave a spectrum as it is."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from pfn_optax.dynamics import (
    DynamicsError,
    DynamicsStatus,
    adjoint_lyapunov_spectrum,
    along_orbit,
    classic,
    lyapunov_spectrum,
    rk4,
)
from pfn_optax.dynamics.basis import random_basis
from pfn_optax.dynamics.sweep import standard_error
from tests.dynamics.oracles import by_matrices, jacobians_along, weights

pytestmark = pytest.mark.usefixtures("x64")
SPECTRA = {"forward": lyapunov_spectrum, "adjoint": adjoint_lyapunov_spectrum}
both = pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
ONES6 = np.ones(6)
CAT = np.log((3 + 5**0.5) / 2)


def network(matrix, state):
    return jnp.tanh(matrix @ state)


def within(found, expected, num_errors=4):
    assert found.status == DynamicsStatus.FINISHED
    assert (
        np.abs(found.exponents - np.asarray(expected)) < num_errors * found.standard_error
    ).all()


# Known answers.


@functools.cache
def lorenz():
    run = functools.partial(lyapunov_spectrum, rk4(classic.lorenz, 0.01), num_steps=40_000)
    return jax.jit(functools.partial(run, num_transient=2000, time_step=0.01))


def test_lorenz():
    found = lorenz()(jnp.array([1.0, 2.0, 20.0]))
    np.testing.assert_allclose(found.exponents.sum(), -(10 + 1 + 8 / 3), atol=1e-3)
    within(found, [0.906, 0, -14.572])
    assert (found.standard_error < 0.06).all()
    np.testing.assert_allclose((found.times[0], found.times[-1]), (4, 400))
    np.testing.assert_array_equal(found.running[-1], found.exponents)


@both
def test_henon(spectrum):
    """From a point of the attractor."""
    start = jnp.array([0.8, 0.15])
    found = spectrum(classic.henon, start, num_steps=10_000)
    np.testing.assert_allclose(found.exponents.sum(), np.log(0.3), rtol=1e-12)
    within(found, [0.4192, np.log(0.3) - 0.4192])


@both
def test_cat_map(spectrum):
    found = spectrum(classic.cat_map, jnp.array([0.1, 0.3]), num_steps=200, num_transient=30)
    np.testing.assert_allclose(found.exponents, [CAT, -CAT], rtol=1e-12)


def test_doubling_map_on_its_orbit():
    orbit = classic.doubling_orbit(jax.random.key(0), 300)
    found = lyapunov_spectrum(along_orbit(classic.doubling_map), orbit[0], inputs=orbit)
    np.testing.assert_allclose(found.exponents, np.log(2), rtol=1e-12)
    assert 0.3 < orbit.mean() < 0.7  # it has not collapsed


@both
def test_orthogonal_weights_keep_every_length(spectrum):
    matrix = random_basis(jax.random.key(1), 5, 5, jnp.float64)
    found = spectrum(lambda x: matrix @ x, jnp.ones(5), num_steps=20)
    np.testing.assert_allclose(found.exponents, np.zeros(5), atol=1e-14)


@both
def test_deep_linear_network_has_the_exponents_of_random_matrices(spectrum):
    """lambda_i = (ln(2 s^2 / N) + digamma((N - i + 1) / 2)) / 2."""
    size, scale = 6, 1.3
    layers = scale / size**0.5 * jax.random.normal(jax.random.key(2), (4000, size, size))
    found = spectrum(lambda x, w: w @ x, jnp.zeros(size), inputs=layers)
    digamma = jax.scipy.special.digamma((size - jnp.arange(size)) / 2)
    within(found, (jnp.log(2 * scale**2 / size) + digamma) / 2)


# An independent computation.


def test_it_is_what_matrices_give():
    matrix, start = weights(0), jnp.linspace(-1, 1, 6)
    step = functools.partial(network, matrix)
    found = lyapunov_spectrum(step, start, num_steps=50, num_exponents=4)
    basis = random_basis(jax.random.key(0), 6, 4, jnp.float64)
    expected = by_matrices(jacobians_along(step, start, 50), basis)
    np.testing.assert_allclose(found.exponents, expected, rtol=1e-10)


def test_the_adjoint_is_what_transposed_matrices_give_backward():
    matrix, start = weights(0), jnp.linspace(-1, 1, 6)
    step = functools.partial(network, matrix)
    found = adjoint_lyapunov_spectrum(step, start, num_steps=53, num_exponents=4, num_points=7)
    basis = random_basis(jax.random.key(0), 6, 4, jnp.float64)
    backward = np.asarray(jacobians_along(step, start, 53))[::-1].transpose(0, 2, 1)
    np.testing.assert_allclose(found.exponents, by_matrices(backward, basis), rtol=1e-10)
    np.testing.assert_array_equal(found.state, start)


def test_duality():
    """The same exponents forward and backward; their sums are equal on any stretch."""
    step = functools.partial(network, weights(3, gain=2.0))
    options = {"num_steps": 2000, "num_transient": 200}
    there = lyapunov_spectrum(step, jnp.ones(6), **options)
    back = adjoint_lyapunov_spectrum(step, there.state, **options)
    errors = np.asarray(there.standard_error) + np.asarray(back.standard_error)
    distance = np.abs(np.subtract(there.exponents, back.exponents))
    assert (distance < 3 * errors + 0.01).all()
    ahead = lyapunov_spectrum(step, there.state, num_steps=40)
    behind = adjoint_lyapunov_spectrum(step, there.state, num_steps=40)
    np.testing.assert_allclose(ahead.exponents.sum(), behind.exponents.sum(), rtol=1e-10)


# What changes nothing.


def test_a_change_of_norm_leaves_the_exponents():
    """In other coordinates A x, the exponents of long times are the same."""
    there = jnp.array([[2.0, 0.3], [-0.5, 0.7]])
    back = jnp.linalg.inv(there)

    def conjugate(state):
        return there @ classic.henon(back @ state)

    found = [
        lyapunov_spectrum(step, start, num_steps=4000).exponents
        for step, start in ((classic.henon, jnp.zeros(2)), (conjugate, jnp.zeros(2)))
    ]
    np.testing.assert_allclose(*found, atol=0.01)


@both
def test_qr_every_does_not_matter_within_the_precision(spectrum):
    """Numbers of steps that no interval divides; less than one interval."""
    step = functools.partial(network, weights(0))
    run = functools.partial(spectrum, step, jnp.ones(6), num_steps=17, num_transient=5)
    one = run()
    for qr_every in (3, 18):
        more = run(qr_every=qr_every)
        assert more.status == DynamicsStatus.FINISHED
        np.testing.assert_allclose(more.exponents, one.exponents, rtol=1e-5)


def test_eager_is_jit_is_vmap_over_states_and_parameters():
    def run(matrix, state):
        return lyapunov_spectrum(functools.partial(network, matrix), state, num_steps=12)

    matrices, states = jnp.stack([weights(0), weights(1)]), jnp.stack([jnp.ones(6), -jnp.ones(6)])
    together = jax.vmap(run)(matrices, states)
    for index in range(2):
        single = run(matrices[index], states[index])
        chex.assert_trees_all_close(
            single, jax.tree.map(lambda leaf, index=index: leaf[index], together), rtol=1e-9
        )
    chex.assert_trees_all_close(jax.jit(run)(matrices[1], states[1]), single, rtol=1e-9)


def test_a_tree_is_its_flat_state():
    spectrum = adjoint_lyapunov_spectrum
    matrix = weights(2)
    tree = {"a": jnp.ones((2, 2)), "b": jnp.array([0.5, -0.5])}
    flat, unravel = ravel_pytree(tree)
    inputs = jnp.linspace(0, 1, 10)

    def flat_step(state, x):
        return jnp.tanh(matrix @ state + x)

    def step(state, x):
        return unravel(flat_step(ravel_pytree(state)[0], x))

    found = spectrum(step, tree, inputs=inputs, num_exponents=2)
    expected = spectrum(flat_step, flat, inputs=inputs, num_exponents=2)
    np.testing.assert_allclose(found.exponents, expected.exponents, rtol=1e-10)
    assert found.basis["a"].shape == (2, 2, 2)
    chex.assert_trees_all_close(jax.vmap(lambda t: ravel_pytree(t)[0])(found.basis), expected.basis)


def test_a_run_goes_on_where_another_ended():
    step = functools.partial(network, weights(0))
    whole = lyapunov_spectrum(step, jnp.ones(6), num_steps=20, num_exponents=2)
    first = lyapunov_spectrum(step, jnp.ones(6), num_steps=10, num_exponents=2)
    second = lyapunov_spectrum(step, first.state, num_steps=10, basis=first.basis)
    np.testing.assert_allclose(
        (first.exponents + second.exponents) / 2, whole.exponents, rtol=1e-10
    )


def test_half_precision():
    state, matrix, basis = jnp.ones(6, jnp.bfloat16), weights(0).astype(jnp.bfloat16), jnp.eye(6)
    step = functools.partial(network, matrix)
    found = lyapunov_spectrum(step, state, num_steps=10, basis=basis)
    assert found.exponents.dtype == jnp.float32
    assert found.state.dtype == jnp.bfloat16
    exact = by_matrices(jacobians_along(functools.partial(network, weights(0)), ONES6, 10), basis)
    np.testing.assert_allclose(found.exponents[:3], exact[:3], atol=0.05)


def test_no_implicit_promotion(strict):
    lyapunov_spectrum(classic.cat_map, jnp.array([0.1, 0.3]), num_steps=7, qr_every=2)


def test_memory_does_not_grow_with_the_steps():
    def temporary(num_steps):
        step = functools.partial(network, weights(0))
        run = jax.jit(lambda x: lyapunov_spectrum(step, x, num_steps=num_steps))
        return run.lower(jnp.ones(6)).compile().memory_analysis().temp_size_in_bytes

    assert temporary(1_000_000) <= temporary(1000) + 1000


# Errors of the mean.


def test_the_error_is_about_the_spread_over_many_trajectories():
    starts = 0.1 * jax.random.normal(jax.random.key(3), (64, 2))
    run = functools.partial(lyapunov_spectrum, classic.henon, num_steps=1000, num_transient=50)
    found = jax.jit(jax.vmap(run))(starts)
    spread = np.std(found.exponents[:, 0], ddof=1)
    assert 0.7 * spread < np.mean(found.standard_error[:, 0]) < 2.5 * spread


def test_correlated_blocks_have_the_error_of_their_long_averages():
    draw = np.random.default_rng(0)
    independent = draw.normal(size=(50, 1024))
    slow = np.repeat(independent[:, ::8], 8, axis=1)
    errors = np.asarray(standard_error(jnp.asarray(np.concatenate([independent, slow]).T)))
    assert 1 < errors[:50].mean() * 1024**0.5 < 1.6
    assert 0.9 < errors[50:].mean() * 128**0.5 < 1.6
    assert np.isinf(standard_error(jnp.ones((1, 2)))).all()


def test_the_curve_has_at_most_so_many_points():
    step = functools.partial(network, weights(0))
    found = lyapunov_spectrum(step, jnp.ones(6), num_steps=23, num_points=5, qr_every=2)
    # Eleven intervals in blocks of three, and one step.
    np.testing.assert_array_equal(found.times, [6, 12, 18, 23])
    for num_steps, row in ((12, 1), (23, 3)):
        part = lyapunov_spectrum(step, jnp.ones(6), num_steps=num_steps, qr_every=2)
        np.testing.assert_allclose(part.exponents, found.running[row], rtol=1e-9)


# What cannot be measured.


@both
def test_a_step_that_forgets_its_state_has_collapsed(spectrum):
    def forget(state):
        return jnp.array([0.5, 1.0]) * state * jnp.array([1.0, 0.0])

    found = spectrum(forget, jnp.ones(2), num_steps=6)
    assert found.status == DynamicsStatus.COLLAPSED
    assert found.exponents[1] == -jnp.inf
    assert found.standard_error[1] == jnp.inf
    assert not np.isnan(found.running).any()
    rounded = spectrum(jnp.round, jnp.ones(2), num_steps=6)
    assert (np.asarray(rounded.exponents) == -np.inf).all()


def test_columns_that_became_parallel_are_reported():
    scales = jnp.array([2.0, 0.1])
    found = lyapunov_spectrum(lambda x: scales * x, jnp.ones(2), num_steps=40, qr_every=20)
    assert found.status == DynamicsStatus.UNRESOLVED
    singular = lyapunov_spectrum(
        lambda x: jnp.ones((2, 2), jnp.float32) @ x / 2, jnp.ones(2, jnp.float32), num_steps=9
    )
    assert singular.status in (DynamicsStatus.UNRESOLVED, DynamicsStatus.COLLAPSED)


@both
def test_the_first_non_finite_step_is_named(spectrum):
    def square(state):
        return jnp.square(state)

    run = functools.partial(spectrum, square, jnp.array([10.0, 0.5]), num_steps=20)
    with pytest.raises(DynamicsError, match=r"step 8 \(from 0\) made the state or a derivative"):
        run()  # 10^512
    found = jax.jit(run)()
    assert found.first_nonfinite == 8
    assert found.status == DynamicsStatus.NONFINITE


def test_a_derivative_that_does_not_exist_is_named_too():
    step = along_orbit(lambda x: jnp.sqrt(jnp.abs(x)))
    with pytest.raises(DynamicsError, match="step 2 "):
        lyapunov_spectrum(step, jnp.ones(1), inputs=jnp.array([[1.0], [2.0], [0.0], [1.0]]))


ONES = np.ones(2)


def identity(state, *inputs):
    return state


@both
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give num_steps, or inputs"),
        ({"num_steps": 0}, "at least one step must be recorded, got 0"),
        ({"num_steps": 5, "num_transient": -1}, "num_transient must be at least 0, got -1"),
        ({"num_steps": 5, "num_exponents": 3}, r"num_exponents must be in 1, ..., 2, .* got 3"),
        ({"num_steps": 5, "num_exponents": 0}, "num_exponents must be in"),
        ({"num_steps": 5, "qr_every": 0}, "qr_every must be at least 1"),
        ({"num_steps": 5, "num_points": 0}, "num_points must be at least 1"),
        ({"num_steps": 5, "time_step": 0.0}, "time_step must be positive, got 0.0"),
        ({"num_steps": 5, "basis": np.ones((1, 3))}, "basis must be 1 vectors of 2 entries"),
        ({"num_steps": 5, "inputs": np.ones(4)}, "num_steps=5 and 0 transient .*got 4"),
        ({"inputs": np.ones(4), "num_transient": 4}, "at least one step must be recorded"),
        ({"inputs": (np.ones(4), np.ones(3))}, "the same leading axis of time"),
        ({"inputs": ()}, "got no leaves"),
        ({"num_steps": 5, "state": np.arange(2)}, r"state leaf itself is int"),
        ({"num_steps": 5, "state": {"a": ONES, "n": np.arange(2)}}, "state leaf n is int"),
        ({"num_steps": 5, "state": {}}, "the state has no entries"),
        ({"num_steps": 5, "step": lambda x: (x, x)}, "Of a cell's .* return the carry"),
        ({"num_steps": 5, "step": lambda x: x[:1]}, r"float64\[2\] into float64\[1\]"),
    ],
)
def test_bad_input(spectrum, options, message):
    with pytest.raises(ValueError, match=message):
        spectrum(**{"step": identity, "state": ONES, **options})
