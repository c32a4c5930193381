"""Signals that get lost or grow, outputs that are too large, data that is not normalised."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfn_optax.diagnosis import Cause, Severity
from pfn_optax.diagnosis.checks.input_scale import check_input_scale
from pfn_optax.diagnosis.checks.scale import check_scale, layer_gain
from pfn_optax.diagnosis.signal import measure_signal
from tests.diagnosis.cases import BATCH, DEPTH, WIDTH, Network, dense, scaled
from tests.diagnosis.quadratics import case_of


def test_gains_are_those_of_mean_field(relu_net, linear_net):
    for net in (relu_net, linear_net):
        layers = net.case().once(measure_signal).layers
        assert len(layers) == DEPTH + 1
        # He's rule keeps the mean square of ReLU, and 1 / fan-in that of no activation.
        gains = [layer_gain(layer) for layer in layers[:-1]]
        assert np.prod(gains) ** (1 / DEPTH) == pytest.approx(1.0, abs=0.2)


def test_signals_and_gains_by_hand(linear_net):
    params, x = linear_net.params, np.asarray(linear_net.batch["x"], np.float64)
    h = x
    for layer in linear_net.case().once(measure_signal).layers[:-1]:
        assert layer.given_rms[0] == pytest.approx(np.sqrt(np.mean(h**2)), rel=1e-5)
        h = h @ np.asarray(params[layer.name]["w"], np.float64)
        assert layer.pre_rms[0] == pytest.approx(np.sqrt(np.mean(h**2)), rel=1e-5)
        np.testing.assert_allclose(layer.pre[0], h, atol=1e-4)


def _at_ratio(net, ratio: float):
    """Parameters that leave this part of the signal behind the fourth layer."""
    layers = net.case().once(measure_signal).layers
    now = layers[-1].given_rms[0] / layers[0].given_rms[0]
    factor = (ratio / now) ** (1 / DEPTH)
    params = net.params
    for n in range(DEPTH):
        params = scaled(params, f"l{n}", factor)
    return params


@pytest.mark.parametrize("name", ["relu_net", "linear_net"])
def test_a_signal_that_gets_lost_or_grows_is_found_beyond_the_threshold(name, request):
    net = request.getfixturevalue(name)
    assert not list(check_scale(net.case()))
    assert not list(check_scale(net.case(_at_ratio(net, 1.2e-3))))
    [found] = check_scale(net.case(_at_ratio(net, 0.8e-3)))
    assert (found.cause, found.severity) == (Cause.INIT_TOO_SMALL, Severity.WARNING)
    assert set(found.layers) == {"l0", "l1", "l2", "l3"}
    assert found.excess == pytest.approx(1 / 0.8, rel=1e-3)
    [found] = check_scale(net.case(_at_ratio(net, 1e-6)))
    assert found.severity is Severity.CRITICAL
    grown = _at_ratio(net, 120.0)
    grown = scaled(grown, "out", 1e-3)  # so that the output is not too large as well
    [found] = check_scale(net.case(grown))
    assert (found.cause, found.severity) == (Cause.INIT_TOO_LARGE, Severity.WARNING)
    assert set(found.layers) == {"l0", "l1", "l2", "l3"}
    less = scaled(_at_ratio(net, 80.0), "out", 1e-3)
    assert not list(check_scale(net.case(less)))


def test_one_mis_scaled_layer_is_named_alone(linear_net):
    gain = layer_gain(linear_net.case().once(measure_signal).layers[2])
    for wanted, is_found in ((0.033, False), (0.027, True)):
        case = linear_net.case(scaled(linear_net.params, "l2", wanted / gain))
        findings = list(check_scale(case))
        assert bool(findings) is is_found
    assert findings[0].layers == ("l2",)
    [found] = check_scale(linear_net.case(scaled(linear_net.params, "l2", 1e-5)))
    assert found.layers == ("l2",)


def test_a_last_layer_that_is_too_large_is_found_by_the_loss(linear_net):
    for factor, is_found in ((1.2, False), (20.0, True)):
        case = linear_net.case(scaled(linear_net.params, "out", factor))
        findings = list(check_scale(case))
        assert bool(findings) is is_found
    [found] = findings
    assert (found.cause, found.layers) == (Cause.INIT_TOO_LARGE, ("out",))
    # With outputs 0 the squared error is the targets' mean square.
    chance = float(np.mean(np.asarray(linear_net.batch["y"]) ** 2))
    assert case.measures["loss_at_zero_output"] == pytest.approx(chance, rel=1e-5)


def tied(leaf: str, *, is_of_tokens: bool) -> Network:
    """A table by which the data enters and, transposed, leaves; outputs are `factor` times that."""
    keys = jax.random.split(jax.random.key(3), 4)
    x = jax.random.normal(keys[2], (BATCH, 12))
    params = {
        "tok": {leaf: jax.random.normal(keys[0], (12, WIDTH))},
        "mid": dense(keys[1], WIDTH, WIDTH, 1.0),
    }
    batch = {"x": jnp.arange(BATCH) % 12 if is_of_tokens else x, "factor": jnp.float32(1)}

    def loss(params, batch):
        table, x = params["tok"][leaf], batch["x"]
        h = table[x] if is_of_tokens else x @ table
        h = jnp.tanh(h @ params["mid"]["w"] + params["mid"]["b"])
        out = batch["factor"] * (h @ table.T)
        if is_of_tokens:
            return optax.softmax_cross_entropy_with_integer_labels(out, (x + 1) % 12).mean()
        return jnp.mean((out - x) ** 2)

    return Network(loss, params, batch)


@pytest.mark.parametrize(
    ("leaf", "is_of_tokens", "argument"),
    [
        ("embedding", True, r"\(embedding_init=jax.nn.initializers.normal"),
        ("w", True, r"\(jax.nn.initializers.normal"),
        ("kernel", False, r"\(kernel_init=jax.nn.initializers.normal"),
    ],
)
def test_a_tied_table_is_made_smaller_and_not_zero(leaf, is_of_tokens, argument):
    net = tied(leaf, is_of_tokens=is_of_tokens)
    large = scaled(net.params, "tok", 3.0, leaf)
    [found] = check_scale(net.case(large))
    assert (found.cause, found.layers) == (Cause.INIT_TOO_LARGE, ("tok",))
    assert "tok:2" not in found.summary
    assert "zeros" not in found.remedy
    assert all(math.isfinite(one.value) for one in found.evidence)
    # Both ways that are told mend it.
    deviation = float(re.search(argument + r"\(([\d.e-]+)\)\)", found.remedy)[1])
    drawn = scaled(large, "tok", deviation / float(jnp.std(large["tok"][leaf])), leaf)
    assert not list(check_scale(net.case(drawn)))
    factor = float(re.search(r"at the end by ([\d.e-]+)\.", found.remedy)[1])
    assert not list(check_scale(net.case(large, {**net.batch, "factor": jnp.float32(factor)})))


def test_a_table_of_logits_is_an_embedding_and_not_tied():
    x = jnp.arange(24) % 12
    params = {"tok": {"embedding": 20 * jax.random.normal(jax.random.key(3), (12, 12))}}

    def loss(params, x):
        logits = params["tok"]["embedding"][x]
        return optax.softmax_cross_entropy_with_integer_labels(logits, (x + 1) % 12).mean()

    [found] = check_scale(Network(loss, params, x).case())
    assert "embedding_init" in found.remedy
    assert "the same weights" not in found.remedy
    assert [one.name for one in found.evidence] == [
        "loss over that with outputs 0",
        "size of the outputs",
    ]


def _with_data(net, change):
    return net.case(batch={**net.batch, "x": change(net.batch["x"])})


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        (lambda x: 9 * x, lambda x: 12 * x),
        (lambda x: 0.035 * x, lambda x: 0.025 * x),
        (lambda x: x + 4, lambda x: x + 6),
        (lambda x: x.at[:, 3].multiply(12), lambda x: x.at[:, 3].multiply(25) / 5),
    ],
    ids=["large", "small", "offset", "dominated"],
)
def test_data_is_found_beyond_the_threshold(linear_net, inside, outside):
    assert not list(check_input_scale(linear_net.case()))
    assert not list(check_input_scale(_with_data(linear_net, inside)))
    [found] = check_input_scale(_with_data(linear_net, outside))
    assert (found.cause, found.severity) == (Cause.INPUT_SCALE, Severity.WARNING)
    assert found.layers == ("l0",)
    assert found.excess >= 1


def test_data_far_beyond_is_critical_and_zeros_say_nothing(linear_net):
    [found] = check_input_scale(_with_data(linear_net, lambda x: 1e3 * x))
    assert found.severity is Severity.CRITICAL
    assert not list(check_input_scale(_with_data(linear_net, jnp.zeros_like)))


def pooled(norm_axes):
    """Two layers at 16 positions, a norm, a mean over positions, a last layer."""
    keys = jax.random.split(jax.random.key(0), 4)
    params = {f"l{i}": jax.random.normal(keys[i], (8, 8)) / 8**0.5 for i in range(3)}

    def loss(params, x):
        h = jax.nn.relu(jax.nn.relu(x @ params["l0"]) @ params["l1"])
        h = (h - h.mean(norm_axes, keepdims=True)) / (h.std(norm_axes, keepdims=True) + 1e-3)
        return jnp.mean((h.mean(1) @ params["l2"]) ** 2)

    return case_of(loss, params, jax.random.normal(keys[3], (32, 16, 8)))


def test_a_norm_over_what_is_averaged_next_is_named_by_its_place():
    """Every mean over positions is 0 but for rounding; no weights are to blame."""
    [found] = check_scale(pooled((1,)))
    assert (found.cause, found.severity) == (Cause.LOST_SIGNAL, Severity.CRITICAL)
    assert found.layers == ("l1", "l2")
    assert "Between l1 and l2" in found.summary
    assert "rounding" in found.summary
    assert found.evidence[1].value < 1e-5
    assert not list(check_scale(pooled((1, 2))))


def test_a_layer_that_is_well_is_not_blamed_for_what_gets_lost_behind_a_branch():
    """Only the first and the last layer are on every path; the signal is lost before the last."""
    keys = jax.random.split(jax.random.key(0), 4)
    params = {f"l{i}": jax.random.normal(keys[i], (8, 8)) / 3 for i in range(3)}

    def loss(params, x):
        h = x @ params["l0"]
        h = h + jnp.tanh(h @ params["l1"])
        h = h - h.mean(1, keepdims=True)
        return jnp.mean((h.mean(1) @ params["l2"]) ** 2)

    [found] = check_scale(case_of(loss, params, jax.random.normal(keys[3], (32, 16, 8))))
    assert (found.cause, found.layers) == (Cause.LOST_SIGNAL, ("l1", "l2"))
