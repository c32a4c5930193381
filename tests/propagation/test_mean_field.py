"""Mean field against closed forms, published points, and a wide network."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax.precision import double_precision
from pfn_optax.propagation import (
    MeanFieldStatus,
    Phase,
    correlation_map,
    mean_field,
    variance_map,
)
from pfn_optax.propagation.kinks import kinks_of

pytestmark = pytest.mark.usefixtures("unoptimized")

PLACES = jnp.asarray([[1.0, 0.05], [2.5, 0.05], [1.0, 0.0], [1.5, 0.0], [2.84317, 0.5]])


def over(places, activation=jnp.tanh):
    return jax.vmap(lambda place: mean_field(activation, place[0], place[1]))(places)


@pytest.fixture(scope="module")
def tanh():
    return over(PLACES)


@pytest.fixture(scope="module")
def precise():
    """Two points in float64."""
    with double_precision():
        return jax.device_get(over(jnp.asarray(PLACES[:2], jnp.float64)))


def test_tanh_on_either_side_of_the_critical_line(tanh):
    np.testing.assert_allclose(tanh.chi_1[:2], [0.7590, 1.1335], atol=5e-5)
    np.testing.assert_allclose(tanh.xi_c[:2], [3.63, 11.80], atol=5e-3)
    np.testing.assert_allclose(tanh.c[:2], [1.0, 0.4468], atol=5e-5)
    np.testing.assert_allclose(tanh.phase, [-1, 1, 0, 1, 0])
    assert (tanh.status == MeanFieldStatus.FOUND).all()
    # Without biases: critical at 1, where nothing is left, and beyond, inputs become orthogonal.
    assert tanh.q[2] == 0
    assert np.isinf([tanh.xi_q[2], tanh.xi_c[2]]).all()
    np.testing.assert_allclose(tanh.c[3], 0, atol=1e-6)
    np.testing.assert_allclose(tanh.q[4], 1.97103, rtol=1e-5)


def test_float32_is_float64_to_four_digits_and_more(tanh, precise):
    assert precise.q.dtype == np.float64
    for name in ("q", "c", "chi_1", "xi_q", "xi_c"):
        np.testing.assert_allclose(getattr(tanh, name)[:2], getattr(precise, name), rtol=2e-5)


@pytest.mark.usefixtures("strict")
def test_vmap_is_jit_is_eager(tanh):
    for index in (1, 2):
        single = mean_field(jnp.tanh, *(float(x) for x in PLACES[index]))
        one = jax.tree.map(lambda leaf, index=index: leaf[index], tanh)
        chex.assert_trees_all_close(single, one, rtol=1e-5)


def test_depth_scales_are_the_slopes_of_the_maps_at_the_fixed_point(precise):
    q, c = precise.q[1], precise.c[1]
    with double_precision():
        lengths = jax.jit(jax.vmap(lambda q: variance_map(jnp.tanh, q, 2.5, 0.05)))
        after = np.asarray(lengths(jnp.asarray([q - 1e-4, q, q + 1e-4])))
        angles = jax.jit(jax.vmap(lambda c: correlation_map(jnp.tanh, c, q, 2.5, 0.05)))
        turned = np.asarray(angles(jnp.asarray([c - 1e-4, c, c + 1e-4, 1.0, 1 - 1e-5])))
    np.testing.assert_allclose([after[1], turned[1], turned[3]], [q, c, 1.0], rtol=1e-8)
    np.testing.assert_allclose(
        (after[2] - after[0]) / 2e-4, np.exp(-1 / precise.xi_q[1]), rtol=1e-6
    )
    slope = (turned[2] - turned[0]) / 2e-4
    np.testing.assert_allclose(slope, np.exp(-1 / precise.xi_c[1]), rtol=1e-6)
    # Nearby inputs part by the factor chi_1.
    np.testing.assert_allclose((1 - turned[4]) / 1e-5, precise.chi_1[1], rtol=1e-3)


def test_a_wide_network_does_what_mean_field_says(precise):
    """Lengths, angles, and the growth of a gradient, over ten layers of 2000 units."""
    draw, width, depth = np.random.default_rng(0), 2000, 10
    first = draw.normal(size=(width, 1))
    u = np.concatenate([first, 0.9 * first + np.sqrt(1 - 0.81) * draw.normal(size=(width, 1))], 1)
    u *= np.sqrt(precise.q[1])
    gradient, growths = draw.normal(size=width), []
    angle = jax.jit(lambda c: correlation_map(jnp.tanh, c, precise.q[1], 2.5, 0.05))
    c = 0.9
    for _ in range(depth):
        weights = draw.normal(size=(width, width)) * np.sqrt(2.5 / width)
        # The transpose, as if the gradient came from above through fresh weights.
        before = gradient @ gradient
        gradient = (gradient @ weights) / np.cosh(u[:, 0]) ** 2
        growths.append(gradient @ gradient / before)
        u = weights @ np.tanh(u) + np.sqrt(0.05) * draw.normal(size=(width, 1))
        c = angle(c)
    lengths = (u**2).mean(axis=0)
    np.testing.assert_allclose(lengths, precise.q[1], rtol=0.15)
    np.testing.assert_allclose((u[:, 0] * u[:, 1]).mean() / np.sqrt(lengths.prod()), c, atol=0.06)
    np.testing.assert_allclose(np.mean(growths), precise.chi_1[1], rtol=0.05)


def test_the_correlation_map_of_relu_in_closed_form():
    c = np.asarray([-1.0, -0.5, 0.0, 0.5, 0.9, 0.999, 1.0])
    exact = (np.sqrt(1 - c**2) + c * (np.pi - np.arccos(c))) / np.pi
    by_relu = jax.jit(jax.vmap(lambda c, q: correlation_map(jax.nn.relu, c, q, 2.0), (0, None)))
    for q in (0.3, 1.0):  # it does not depend on the variance
        np.testing.assert_allclose(by_relu(jnp.asarray(c), q), exact, atol=1e-6)


def test_the_correlation_map_of_erf_in_closed_form():
    c = np.asarray([-0.9, 0.2, 0.99])

    def kernel(q, c):
        return 2 / np.pi * np.arcsin(2 * q * c / (1 + 2 * q))

    erf = jax.scipy.special.erf
    by_erf = jax.jit(jax.vmap(lambda c, q: correlation_map(erf, c, q, 1.3, 0.1), (0, None)))
    for q in (0.3, 300.0):
        exact = (1.3 * kernel(q, c) + 0.1) / (1.3 * kernel(q, 1.0) + 0.1)
        np.testing.assert_allclose(by_erf(jnp.asarray(c), q), exact, atol=1e-5)


def test_relu_has_a_fixed_point_up_to_two_alone():
    places = jnp.asarray([[2.0, 0.0], [1.9, 0.0], [1.5, 0.1], [2.1, 0.0], [2.0, 0.1]])
    found = over(places, jax.nn.relu)
    np.testing.assert_allclose(found.q, [1.0, 0.0, 0.4, np.inf, np.inf], rtol=1e-5)
    np.testing.assert_allclose(found.chi_1, places[:, 0] / 2, rtol=1e-5)
    np.testing.assert_allclose(found.c, [1, 1, 1, np.nan, np.nan])
    np.testing.assert_allclose(found.xi_c[:3], [np.inf, *(-1 / np.log([0.95, 0.75]))], rtol=1e-4)
    assert list(found.status) == [1, 1, 1, 2, 2]
    assert list(found.phase) == [Phase.CRITICAL, Phase.ORDERED, Phase.ORDERED, 1, 0]


def test_selu_keeps_unit_variance():
    """It was made to."""
    np.testing.assert_allclose(variance_map(jax.nn.selu, 1.0, 1.0), 1.0, rtol=1e-6)


@pytest.mark.parametrize("place", [(np.nan, 0.1), (1.0, np.inf)])
def test_numbers_that_are_not_finite_become_a_status(place):
    found = mean_field(jnp.tanh, *place)
    assert found.status == MeanFieldStatus.NONFINITE
    assert np.isnan([found.q, found.chi_1, found.c, found.xi_q, found.xi_c]).all()


def steep(x):
    return jnp.tanh(20 * x)


@pytest.mark.parametrize(
    ("activation", "kinks"),
    [
        (jnp.tanh, ()),
        (steep, ()),
        (jax.nn.elu, ()),
        (jax.nn.relu, (0.0,)),
        (jax.nn.relu6, (0.0, 6.0)),
        (jax.nn.hard_tanh, (-1.0, 1.0)),
        (jnp.sign, (0.0,)),
    ],
)
def test_kinks_are_found(activation, kinks):
    assert kinks_of(activation, None) == kinks


def test_kinks_are_cut_out_also_inside_of_jit():
    """E[f^2] of hard tanh in closed form; without the cuts it is off."""

    def exact(q):
        inside = jax.scipy.special.erf(1 / jnp.sqrt(2 * q))
        density = jnp.exp(-1 / (2 * q)) * jnp.sqrt(2 / (np.pi * q))
        return q * (inside - density) + 1 - inside

    def squares(q, kinks=None):
        return jax.vmap(lambda q: variance_map(jax.nn.hard_tanh, q, 1.0, kinks=kinks))(q)

    q = jnp.asarray([0.3, 1.0, 5.0])
    by_q = jax.jit(squares, static_argnames="kinks")
    expected = jax.jit(exact)(q)
    np.testing.assert_allclose(by_q(q), expected, rtol=2e-6)
    assert np.abs(by_q(q, kinks=()) / expected - 1).max() > 2e-5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_field(jax.nn.softmax, jnp.ones(2)), "weight_variance must be a real scalar"),
        (lambda: mean_field(jnp.sum, 1.0), "activation must map real numbers one by one"),
        (lambda: mean_field(jnp.tanh, -1.0), "weight_variance must be at least 0, got -1"),
        (lambda: mean_field(jnp.tanh, 1.0, -0.1), "bias_variance must be at least 0, got -0.1"),
        (lambda: variance_map(jnp.tanh, -1.0, 1.0), "q must be at least 0"),
        (lambda: variance_map(jnp.tanh, 1j, 1.0), "q must be a real scalar.*complex64"),
        (lambda: correlation_map(jnp.tanh, 1.5, 1.0, 1.0), "c must be from -1 to 1, got 1.5"),
        (lambda: mean_field(jnp.floor, 1.0), "24 kinks or jumps.*Pass the ones that matter"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
