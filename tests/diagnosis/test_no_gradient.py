"""Parameters without a gradient: by the program, by the numbers, at first or for ever."""

import jax
import jax.numpy as jnp

from pfn_optax.diagnosis import Cause, Severity
from pfn_optax.diagnosis.checks.no_gradient import check_no_gradient
from tests.diagnosis.cases import Network, scaled, shifted


def test_parameters_that_all_count_have_no_finding(linear_net):
    assert not list(check_no_gradient(linear_net.case()))


def _two_branches(join):
    params = {name: {"w": jnp.full((3, 2), 0.5)} for name in ("left", "right")}

    def loss(params, x):
        return jnp.mean(join(x @ params["left"]["w"], x @ params["right"]["w"]) ** 2)

    return Network(loss, params, jax.random.normal(jax.random.key(0), (5, 3)))


def test_a_detached_and_an_unused_branch_are_named():
    for join in (
        lambda left, right: left + jax.lax.stop_gradient(right),
        lambda left, right: left,
        lambda left, right: left * (right > 0),
        lambda left, right: left + jnp.round(right),
    ):
        [found] = check_no_gradient(_two_branches(join).case())
        assert (found.cause, found.severity) == (Cause.NO_GRADIENT, Severity.CRITICAL)
        assert found.layers == ("right",)


def test_a_loss_that_nothing_reaches():
    net = _two_branches(lambda left, right: jnp.argmax(left + right).astype(jnp.float32))
    [found] = check_no_gradient(net.case())
    assert "depends on no parameter" in found.summary
    assert set(found.layers) == {"left", "right"}


def test_an_unused_vector_is_a_note():
    net = _two_branches(lambda left, right: left + right)
    params = {**net.params, "scale": jnp.ones(7)}
    [found] = check_no_gradient(net.case(params))
    assert (found.severity, found.layers) == (Severity.NOTE, ("scale",))


def test_a_bias_whose_gradient_is_zero_at_first_by_symmetry_says_nothing():
    def loss(params, batch):
        logits = batch["x"] @ params["out"]["w"] + params["out"]["b"]
        return jnp.mean(jax.nn.softplus(logits) - batch["y"] * logits)

    params = {"out": {"w": jnp.zeros((1, 1)), "b": jnp.zeros(1)}}
    batch = {"x": jnp.asarray([[1.0], [2.0]]), "y": jnp.asarray([[0.0], [1.0]])}
    gradients = jax.grad(loss)(params, batch)
    assert gradients["out"]["w"].all()
    assert not gradients["out"]["b"].any()
    assert not list(check_no_gradient(Network(loss, params, batch).case()))


def test_a_last_layer_of_zeros_is_a_note_and_zeros_throughout_are_critical(relu_net):
    [found] = check_no_gradient(relu_net.case(scaled(relu_net.params, "out", 0.0)))
    assert found.severity is Severity.NOTE
    assert "l0" in found.layers
    zeros = jax.tree.map(jnp.zeros_like, relu_net.params)
    findings = list(check_no_gradient(relu_net.case(zeros)))
    assert findings[0].severity is Severity.CRITICAL
    assert "Weights that are all 0" in findings[0].summary


def test_dead_units_stop_the_gradient(relu_net):
    [found] = check_no_gradient(relu_net.case(shifted(relu_net.params, "l1", -1e3)))
    assert found.severity is Severity.CRITICAL
    assert set(found.layers) >= {"l0", "l1"}
    assert "Weights that are all 0" not in found.summary
