"""Dead, saturated and symmetric units, on both sides of each threshold."""

import jax
import jax.numpy as jnp
import pytest

from pfn_optax.diagnosis import Cause, Severity
from pfn_optax.diagnosis.checks.dead_units import check_dead_units
from pfn_optax.diagnosis.checks.saturation import check_saturation
from pfn_optax.diagnosis.checks.symmetric_units import check_symmetric_units
from pfn_optax.diagnosis.signal import measure_signal
from pfn_optax.propagation import saturated_share
from tests.diagnosis.cases import WIDTH, Network, dense, scaled


def _with_dead(params, num: int):
    bias = params["l1"]["b"].at[:num].set(-1e3)
    return {**params, "l1": {**params["l1"], "b": bias}}


def test_dead_units_are_found_from_three_quarters_on(relu_net):
    assert not list(check_dead_units(relu_net.case()))
    assert not list(check_dead_units(relu_net.case(_with_dead(relu_net.params, 11))))
    [found] = check_dead_units(relu_net.case(_with_dead(relu_net.params, 13)))
    assert (found.cause, found.severity) == (Cause.DEAD_UNITS, Severity.WARNING)
    assert found.layers == ("l1",)
    assert found.evidence[0].value >= 13 / WIDTH


def test_a_layer_that_is_dead_throughout_is_critical(relu_net):
    [found] = check_dead_units(relu_net.case(_with_dead(relu_net.params, WIDTH)))
    assert found.severity is Severity.CRITICAL
    assert found.layers[0] == "l1"


def test_saturation_is_found_from_one_half_on(tanh_net):
    assert not list(check_saturation(tanh_net.case()))
    for factor, is_found in ((3.0, False), (9.0, True)):
        case = tanh_net.case(scaled(tanh_net.params, "l2", factor))
        findings = list(check_saturation(case))
        assert bool(findings) is is_found
    [found] = findings
    assert (found.cause, found.severity) == (Cause.SATURATION, Severity.WARNING)
    assert found.layers == ("l2",)
    [found] = check_saturation(tanh_net.case(scaled(tanh_net.params, "l2", 200.0)))
    assert found.severity is Severity.CRITICAL


def test_no_size_is_told_of_preactivations_that_are_not_finite(tanh_net):
    large = scaled(tanh_net.params, "l2", 200.0)
    batch = {**tanh_net.batch, "x": tanh_net.batch["x"].at[0, 0].set(jnp.nan)}
    assert list(check_saturation(tanh_net.case(large)))
    assert not list(check_saturation(tanh_net.case(large, batch)))


def test_saturation_agrees_with_the_library(tanh_net):
    signal = tanh_net.case(scaled(tanh_net.params, "l2", 4.0)).once(measure_signal)
    for layer in signal.layers[:-1]:
        share = saturated_share(jnp.asarray(layer.post), lower=-1, upper=1)
        assert layer.saturated_share == pytest.approx(float(share), abs=1e-6)


def test_copies_of_a_unit_are_symmetric_only_while_their_gradients_are(relu_net):
    assert not list(check_symmetric_units(relu_net.case()))
    layer = relu_net.params["l1"]
    copies = {**layer, "w": layer["w"].at[:, :12].set(layer["w"][:, :1])}
    same_in = {**relu_net.params, "l1": copies}
    assert not list(check_symmetric_units(relu_net.case(same_in)))  # what they feed differs
    after = relu_net.params["l2"]
    same_out = {**after, "w": after["w"].at[:12].set(after["w"][:1])}
    [found] = check_symmetric_units(relu_net.case({**same_in, "l2": same_out}))
    assert (found.cause, found.layers) == (Cause.SYMMETRIC_UNITS, ("l1",))
    assert found.evidence[0].value == 0.75
    few = {**layer, "w": layer["w"].at[:, :7].set(layer["w"][:, :1])}
    few_out = {**after, "w": after["w"].at[:7].set(after["w"][:1])}
    assert not list(
        check_symmetric_units(relu_net.case({**relu_net.params, "l1": few, "l2": few_out}))
    )


def test_constant_and_zero_weights_are_symmetric_a_last_layer_of_zeros_is_not(tanh_net):
    constant = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.1), tanh_net.params)
    [found] = check_symmetric_units(tanh_net.case(constant))
    assert set(found.layers) >= {"l0", "l1", "l2", "l3"}
    zeros = jax.tree.map(jnp.zeros_like, tanh_net.params)
    assert list(check_symmetric_units(tanh_net.case(zeros)))
    last = scaled(tanh_net.params, "out", 0.0)
    assert not list(check_symmetric_units(tanh_net.case(last)))


def test_units_of_an_embedding_and_of_layers_in_a_scan():
    keys = jax.random.split(jax.random.key(0), 3)
    stack = jax.vmap(lambda key: dense(key, 8, 8, 2.0))(jax.random.split(keys[0], 3))
    params = {
        "embedding": jax.random.normal(keys[1], (11, 8)),
        "layers": {"w": stack["w"], "b": stack["b"].at[1].set(-1e3)},
        "out": dense(keys[2], 8, 2, 1.0),
    }

    def loss(params, tokens):
        def layer(h, own):
            return jax.nn.relu(h @ own["w"] + own["b"]), None

        h, _ = jax.lax.scan(layer, params["embedding"][tokens], params["layers"])
        return jnp.mean((h @ params["out"]["w"] + params["out"]["b"]) ** 2)

    net = Network(loss, params, jnp.arange(10))
    case = net.case()
    [found] = check_dead_units(case)
    assert "layers[1]" in found.summary
    assert found.severity is Severity.CRITICAL
    assert not list(check_symmetric_units(case))
