"""Repaired units have the statistics of the models, measured by numpy in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from pfn_optax.align import interpolate, merge, repair
from pfn_optax.units import unit_spec
from tests.align.relu_networks import ConvNet, hidden, inputs, logits, mlp, mlp_spec, split

pytestmark = pytest.mark.usefixtures("unoptimized")

X = inputs(0, 50)
BATCHES = split(X, 20, 20)
MODELS = [mlp(seed) for seed in range(3)]


@pytest.mark.parametrize("weights", [None, (0.2, 0.5, 0.3)])
def test_units_of_all_layers_get_the_statistics_of_the_models(weights):
    merged = merge(MODELS, weights=weights)
    repaired = repair(logits, merged, MODELS, BATCHES, mlp_spec(), weights=weights)
    own = [hidden(model, X) for model in MODELS]
    shares = np.full(3, 1 / 3) if weights is None else np.asarray(weights)
    for depth, (before, after) in enumerate(
        zip(hidden(merged, X), hidden(repaired, X), strict=True)
    ):
        mean = shares @ np.stack([values[depth].mean(0) for values in own])
        deviation = shares @ np.stack([values[depth].std(0) for values in own])
        np.testing.assert_allclose(after.mean(0), mean, rtol=1e-5, atol=2e-6)
        np.testing.assert_allclose(after.std(0), deviation, rtol=1e-5)
        # There was something to repair, and not a little.
        assert np.median(before.std(0) / deviation) < 0.85
    jax.tree.map(np.testing.assert_array_equal, repaired["Dense_2"], merged["Dense_2"])
    assert jax.tree.map(jnp.shape, repaired) == jax.tree.map(jnp.shape, merged)


def test_the_ends_of_the_line_need_no_repair():
    a, b = MODELS[:2]
    for t, end in ((0.0, a), (1.0, b)):
        point = interpolate(a, b, t)
        repaired = repair(logits, point, [a, b], BATCHES, mlp_spec(), weights=(1 - t, t))
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), repaired, end
        )


def test_a_constant_unit_stays_constant_and_gets_its_mean():
    a, b = ({k: dict(v) for k, v in model.items()} for model in MODELS[:2])
    b["Dense_0"]["kernel"] = b["Dense_0"]["kernel"].at[:, 0].set(-a["Dense_0"]["kernel"][:, 0])
    repaired = repair(logits, merge([a, b]), [a, b], BATCHES, mlp_spec())
    units = hidden(repaired, X)[0]
    expected = (hidden(a, X)[0].mean(0) + hidden(b, X)[0].mean(0)) / 2
    assert units[:, 0].std() == 0
    np.testing.assert_allclose(units.mean(0), expected, rtol=1e-5, atol=1e-6)


@functools.cache
def conv_models():
    with jax.default_prng_impl("rbg"):
        init = jax.jit(ConvNet().init)
        return [init(jax.random.key(seed), IMAGES) for seed in range(2)]


IMAGES = inputs(1, 12, 6, 6, 1)


def test_convolutions_on_two_branches_are_each_repaired():
    models = conv_models()
    spec = unit_spec(ConvNet().apply, models[0], IMAGES)
    apply = functools.partial(ConvNet().apply)
    repaired = repair(apply, merge(models), models, split(IMAGES, 5), spec)

    @jax.jit
    def outputs(variables):
        _, seen = ConvNet().apply(
            variables,
            IMAGES,
            capture_intermediates=lambda module, _: isinstance(module, nn.Conv),
            mutable=["intermediates"],
        )
        return seen["intermediates"]

    own = [outputs(model) for model in models]
    after = outputs(repaired)
    for name in ("Conv_0", "Conv_1", "Conv_2"):
        [values] = after[name]["__call__"]
        each = [found[name]["__call__"][0] for found in own]
        axes = (0, 1, 2)
        np.testing.assert_allclose(
            values.mean(axes), sum(one.mean(axes) for one in each) / 2, rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(
            values.std(axes), sum(one.std(axes) for one in each) / 2, rtol=1e-4, atol=1e-5
        )


def transposed(params, x):
    """Kernels as most textbooks write them, one example at a time."""

    def one(x):
        h = jax.nn.relu(params["in"] @ x + params["shift"])
        return params["out"] @ h

    return jax.vmap(one)(x)


def test_kernels_with_their_outputs_first():
    draw = np.random.default_rng(0)
    a, b = (
        {
            "in": jnp.asarray(draw.normal(size=(7, 5)), jnp.float32),
            "shift": jnp.asarray(draw.normal(size=7), jnp.float32),
            "out": jnp.asarray(draw.normal(size=(2, 7)), jnp.float32),
        }
        for _ in range(2)
    )
    repaired = repair(transposed, merge([a, b]), [a, b], BATCHES, unit_spec(transposed, a, X))
    units, *own = (np.asarray(X @ p["in"].T + p["shift"]) for p in (repaired, a, b))
    for measure in (np.mean, np.std):
        expected = (measure(own[0], 0) + measure(own[1], 0)) / 2
        np.testing.assert_allclose(measure(units, 0), expected, rtol=1e-4, atol=1e-5)


def without_bias(params, x):
    return jax.nn.relu(x @ params["in"]) @ params["out"]


BARE = {"in": jnp.ones((5, 4)), "out": jnp.ones((4, 2))}


def halves(params, x):
    """The bias of one layer is that of another one as well."""
    h = jax.nn.relu(x @ params["in"] + params["bias"])
    return jax.nn.relu(h @ params["mid"] + params["bias"]) @ params["out"]


HALVES = {
    "in": jnp.ones((5, 4)),
    "mid": jnp.eye(4),
    "bias": jnp.ones(4),
    "out": jnp.ones((4, 2)),
}


@pytest.mark.parametrize(
    ("function", "model", "change", "message"),
    [
        (without_bias, BARE, {}, "group 'in' cannot be repaired"),
        (halves, HALVES, {}, "'bias' is used 2 times"),
        (logits, MODELS[0], {"models": []}, "models must hold"),
        (logits, MODELS[0], {"models": [BARE]}, "models must have the same leaves"),
        (logits, MODELS[0], {"batches": []}, "batches is empty"),
        (logits, MODELS[0], {"batches": iter(BATCHES)}, "batches is an iterator"),
        (logits, MODELS[0], {"batches": [(X * jnp.nan,)]}, "'Dense_0/bias' are not finite"),
        (logits, MODELS[0], {"weights": [1, 2]}, r"shape \(1,\); got shape \(2,\)"),
    ],
)
def test_bad_input_is_named(function, model, change, message):
    options = {"models": [model], "batches": BATCHES} | change
    spec = unit_spec(function, model, X, check=False)
    with pytest.raises(ValueError, match=message):
        repair(function, model, spec=spec, **options)
