"""The critical line, initializers on it, and activations in Hermite polynomials."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.polynomial import hermite_e

from pfn_optax.precision import double_precision
from pfn_optax.propagation import (
    MeanFieldStatus,
    critical_init,
    critical_line,
    hermite_coefficients,
    isometry_decay,
)
from pfn_optax.propagation.quadrature import moments

pytestmark = pytest.mark.usefixtures("unoptimized")

BIASES = np.asarray([0.0, 0.01, 0.05, 0.1, 0.5])
LINES = {
    "tanh": (jnp.tanh, [1.0, 1.42421, 1.76095, 1.98607, 2.84317]),
    "erf": (jax.scipy.special.erf, [np.pi / 4, 1.11428, 1.37584, 1.55212, 2.23366]),
}
VARIANCES = [0.0, 0.27330, 0.57005, 0.80580, 1.97103]  # of tanh


@functools.cache
def line(activation):
    with double_precision():
        found = jax.vmap(lambda value: critical_line(activation, value))(jnp.asarray(BIASES))
        return jax.device_get(found)


@pytest.mark.parametrize("name", LINES)
def test_published_points_of_the_line(name):
    activation, weights = LINES[name]
    found = line(activation)
    np.testing.assert_allclose(found.weight_variance, weights, rtol=5e-6)
    assert (found.status == MeanFieldStatus.FOUND).all()
    if name == "tanh":
        np.testing.assert_allclose(found.q, VARIANCES, atol=6e-6)


@pytest.mark.usefixtures("strict")
def test_float32_and_one_at_a_time_without_promotion():
    found = critical_line(jnp.tanh, 0.05)
    assert found.q.dtype == jnp.float32
    np.testing.assert_allclose(found[:2], [1.76095, 0.57005], rtol=1e-5)


def test_on_the_line_the_variance_is_kept_and_so_are_gradients():
    found = line(jnp.tanh)
    with double_precision():
        by_q = jax.jit(jax.vmap(lambda q: moments(jnp.tanh, q, ())))
        means = jax.device_get(by_q(jnp.asarray(found.q)))
    np.testing.assert_allclose(found.weight_variance * means.slope_square, 1, rtol=1e-8)
    kept = found.weight_variance * means.square + BIASES
    np.testing.assert_allclose(kept, found.q, atol=1e-8)


def test_activations_without_scale_are_critical_at_one_point():
    relu = line(jax.nn.relu)
    assert list(relu.status) == [1, 3, 3, 3, 3]
    np.testing.assert_allclose([relu.weight_variance[0], relu.q[0]], [2, 1])
    assert np.isnan(relu.weight_variance[1:]).all()
    # GELU: at 4 without biases chi_1 is 1 at q = 0, but depth leads away from there; with enough
    # biases there is one (Roberts, Yaida & Hanin 2022 have (1.98, 0.17)).
    gelu = line(jax.nn.gelu)
    assert list(gelu.status) == [3, 3, 3, 3, 1]


def test_an_activation_that_is_not_finite():
    with pytest.raises(ValueError, match="NaN or infinite on standard Gaussian"):
        critical_init(lambda x: x / 0)


def test_a_deep_network_keeps_its_variance():
    """Thirty layers of Flax, of two widths in turn."""
    init = critical_init(jnp.tanh, 0.1**0.5)
    dense = [nn.Dense(n, kernel_init=init.kernel, bias_init=init.bias) for n in (100, 150)]

    def two_layers(x, key):
        for layer, own in zip(dense, jax.random.split(key), strict=True):
            x, _ = layer.init_with_output(own, jnp.tanh(x))
        return x, None

    x = init.q**0.5 * jax.random.normal(jax.random.key(0), (32, 150))
    last, _ = jax.lax.scan(two_layers, x, jax.random.split(jax.random.key(1), 15))
    np.testing.assert_allclose(jnp.mean(last**2), init.q, rtol=0.25)
    np.testing.assert_allclose([init.weight_variance, init.q], [1.98607, 0.80580], rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 3, 4, 16), (64, 32), (32, 64)])
def test_orthogonal_kernels_have_the_same_variance(shape):
    init = critical_init(jnp.tanh, 0.1, distribution="orthogonal")
    kernel = np.asarray(init.kernel(jax.random.key(0), shape, jnp.float32))
    matrix = kernel.reshape(-1, shape[-1])
    fan_in = len(matrix)
    np.testing.assert_allclose((kernel**2).mean() * fan_in, init.weight_variance, rtol=1e-4)
    values = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(values, values[0], rtol=1e-4)


def test_fan_in_of_a_convolution_and_zero_biases():
    init = critical_init(jnp.tanh)
    kernel = init.kernel(jax.random.key(0), (3, 3, 16, 32), jnp.float32)
    np.testing.assert_allclose(kernel.var() * 9 * 16, 1.0, rtol=0.1)
    assert not init.bias(jax.random.key(1), (64,), jnp.float32).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: critical_init(jax.nn.relu, 0.1), "no critical point at sigma_b=0.1.*sigma_b=0"),
        (lambda: critical_init(jnp.tanh, -1.0), "sigma_b must be finite and not negative, got -1"),
        (lambda: critical_init(jnp.tanh, distribution="uniform"), "one of normal, orthogonal"),
        (lambda: critical_line(jnp.tanh, -0.1), "bias_variance must be at least 0"),
        (lambda: hermite_coefficients(jnp.tanh, 33), "num must be from 1 to 32, got 33"),
        (lambda: isometry_decay(jnp.sum), "activation must map real numbers one by one"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_published_decays_of_isometry():
    decays = [isometry_decay(f) for f in (jax.nn.relu, jnp.tanh, jax.nn.sigmoid, lambda x: x)]
    np.testing.assert_allclose(decays, [1.2665, 1.0695, 1.0158, 1.0], atol=5e-5)


def test_hermite_coefficients():
    relu = hermite_coefficients(jax.nn.relu, 5)
    root = np.sqrt(2 * np.pi)
    exact = [1 / root, 1 / 2, 1 / root / 2**0.5, 0, -1 / root / 24**0.5]
    np.testing.assert_allclose(relu, exact, atol=1e-6)
    # A polynomial has its own coefficients and no others; NumPy's are not normalised.
    plain = np.asarray([0.5, -1.0, 0.0, 0.3])
    cubic = hermite_coefficients(
        lambda x: jnp.polyval(jnp.asarray(hermite_e.herme2poly(plain)[::-1]), x), 6
    )
    np.testing.assert_allclose(cubic, [0.5, -1.0, 0.0, 0.3 * 6**0.5, 0, 0], atol=2e-5)
    # Parseval.
    with double_precision():
        tanh = np.asarray(hermite_coefficients(jnp.tanh, 32))
        square = np.asarray(moments(jnp.tanh, jnp.ones(()), ()).square)
    np.testing.assert_allclose(np.sum(tanh**2), square, rtol=1e-5)
    np.testing.assert_allclose(tanh[::2], 0, atol=1e-12)


def test_initializers_are_made_where_a_model_is_traced():
    """As in `nn.compact` under jit: the critical point is a constant of the program."""

    def draw(key):
        return critical_init(jnp.tanh, 0.1).kernel(key, (40, 30), jnp.float32)

    key = jax.random.key(0)
    np.testing.assert_allclose(jax.jit(draw)(key), draw(key), rtol=1e-5)
