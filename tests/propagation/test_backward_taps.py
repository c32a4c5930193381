"""Gradients at preactivations against perturbations added by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax.propagation import backward_taps, log_slope
from tests.zoo import loops

pytestmark = pytest.mark.usefixtures("unoptimized")


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.fixture(scope="module")
def params():
    draw = np.random.default_rng(0)
    shapes = {"a": (5, 4), "b": (4, 4), "c": (4, 1)}
    return {
        name: {"w": jnp.asarray(draw.normal(size=shape), jnp.float32), "b": jnp.ones(shape[1])}
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(1), (6, 5))


def loss(params, x, added=None):
    h = x
    for name in "abc":
        h = h @ params[name]["w"] + params[name]["b"] + (0 if added is None else added[name])
        h = jax.nn.relu(h) if name != "c" else h
    return jnp.mean(h**2)


def test_against_perturbations(params, x):
    added = {name: jnp.zeros((6, len(params[name]["b"]))) for name in "abc"}
    expected = jax.jit(jax.grad(loss, 2))(params, x, added)
    taps = backward_taps(loss, params, x, measure=lambda gradient: gradient)
    found = jax.jit(taps)(params, x)
    assert taps.names == ("a", "b", "c")
    close(found.value, loss(params, x))
    for name in "abc":
        close(found.layers[name], expected[name])
    gradients = jax.jit(jax.grad(loss))(params, x)
    jax.tree.map(close, found.gradients, gradients)
    norms = backward_taps(loss, params, x, layers=["c", "a"])
    few = norms(params, x[:2])
    assert list(few.layers) == ["c", "a"]
    found = jax.jit(norms)(params, x)
    close(found.layers["a"], jnp.linalg.norm(expected["a"]))
    assert few.aux is None


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_norms_of_any_scale(params, x, scale):
    taps = backward_taps(lambda p, x: scale * loss(p, x), params, x, layers=["b"])
    plain = backward_taps(loss, params, x, layers=["b"])(params, x)
    np.testing.assert_allclose(taps(params, x).layers["b"], scale * plain.layers["b"], rtol=1e-5)


def test_layers_in_a_scan(x):
    case = loops.scanned_layers(num_layers=3)
    taps = backward_taps(case.loss, case.params, *case.args, measure=lambda gradient: gradient)
    found = jax.jit(taps)(case.params, *case.args)
    layer = loops._ResidualLayer()
    inputs, labels = case.args

    def dense(params, x):
        return x @ params["kernel"] + params["bias"]

    def unrolled(added):
        """What comes behind the first product of each layer starts anew from it."""
        state = dense(case.params["stem"], inputs)
        for index in range(3):
            own = jax.tree.map(lambda leaf, index=index: leaf[index], case.params["layers"])
            change, _ = layer.apply({"params": own}, state, None)
            state = change + added[index]
        logits = dense(case.params["head"], state)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
        return -picked.mean()

    expected = jax.jit(jax.grad(unrolled))(jnp.zeros((3, 2, 4)))
    close(found.layers["layers/down"], expected)  # what is added to the output of a layer
    jax.tree.map(close, found.gradients, jax.jit(jax.grad(case.loss))(case.params, *case.args))
    assert found.layers["layers/up"].shape == (3, 2, 8)


def test_recurrent_gradients_over_time_give_their_rate():
    """h' = w h: the gradient shrinks by w a step."""

    def loss(w, x):
        return jax.lax.scan(lambda h, _: (h @ w, None), x, length=8)[0].sum()

    w, x = 0.5 * jnp.eye(3), jnp.ones((2, 3))
    found = jax.jit(backward_taps(loss, w, x))(w, x)
    [norms] = found.layers.values()
    np.testing.assert_allclose(log_slope(norms), np.log(2), rtol=1e-5)


def test_auxiliary_output_and_derivative_rules(params, x):
    def with_aux(params, x):
        h = jax.nn.relu(0 * (x @ params["a"]["w"]))  # the rule of relu has slope 0 at 0
        return jnp.sum(h), {"kept": h}

    found = jax.jit(backward_taps(with_aux, params, x, has_aux=True))(params, x)
    assert found.layers["a"] == 0
    assert found.aux["kept"].shape == (6, 4)


def test_no_gradient_of_an_activation_is_kept():
    """Through a scan, beyond what the backward pass itself keeps."""
    depth, batch, width = 24, 256, 128
    w = jax.ShapeDtypeStruct((depth, width, width), jnp.float32)
    x = jax.ShapeDtypeStruct((batch, width), jnp.float32)

    def loss(w, x):
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w)[0].sum()

    def used(function):
        return jax.jit(function).lower(w, x).compile().memory_analysis().temp_size_in_bytes

    beyond = used(backward_taps(loss, w, x)) - used(jax.value_and_grad(loss))
    assert beyond < 6 * 4 * batch * width


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, x: backward_taps(lambda p, x: x @ p["a"]["w"], p, x), "return one real number"),
        (lambda p, x: backward_taps(lambda p, x: (loss(p, x), x), p, x), "has_aux=True"),
        (lambda p, x: backward_taps(loss, p, x, measure=jnp.argmax), "floating arrays, got int32"),
        (lambda p, x: backward_taps(loss, p, x, layers=["d"]), "no tap at 'd'; there are a, b, c"),
    ],
)
def test_bad_input_is_named(call, message, params, x):
    with pytest.raises(ValueError, match=message):
        call(params, x)


def test_a_layer_inside_of_a_rule_is_refused(params, x):
    @jax.custom_vjp
    def first(w, x):
        return x @ w

    first.defvjp(lambda w, x: (x @ w, (w, x)), lambda kept, g: (0 * kept[0], 0 * kept[1]))

    def loss(params, x):
        return jnp.sum(first(params["a"]["w"], x) @ params["b"]["w"])

    with pytest.raises(ValueError, match=r"'a' is inside.*leave it out, layers=\['b'\]"):
        backward_taps(loss, params, x)
    found = backward_taps(loss, params, x, layers=["b"])(params, x)
    assert not found.gradients["a"]["w"].any()
