"""Values that are not finite: where they are said to come from."""

import jax
import jax.numpy as jnp
import pytest

from pfn_optax.diagnosis import Cause, Severity
from pfn_optax.diagnosis.blame import first_broken, first_steep
from pfn_optax.diagnosis.budget import Budget
from pfn_optax.diagnosis.checks.nonfinite import check_nonfinite
from tests.diagnosis.cases import Network, scaled


def test_finite_networks_have_no_finding(linear_net):
    assert not list(check_nonfinite(linear_net.case()))


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_the_leaf_of_the_batch_is_named(linear_net, value):
    batch = {**linear_net.batch, "x": linear_net.batch["x"].at[2, 3].set(value)}
    [found] = check_nonfinite(linear_net.case(batch=batch))
    assert (found.cause, found.severity) == (Cause.NONFINITE, Severity.CRITICAL)
    assert found.summary.startswith("batch/x")
    assert found.evidence[0].value == pytest.approx(1 / batch["x"].size)


def test_the_leaf_of_the_parameters_and_its_layer_are_named(linear_net):
    params = scaled(linear_net.params, "l2", jnp.nan)
    [found] = check_nonfinite(linear_net.case(params))
    assert found.summary.startswith("params/l2/w")
    assert found.layers == ("l2",)


def test_an_overflow_is_found_in_the_layer_where_it_is(linear_net):
    params = linear_net.params
    for n in range(3):
        params = scaled(params, f"l{n}", 1e15)
    [found] = check_nonfinite(linear_net.case(params))
    assert found.layers == ("l2",)
    assert "dot_general" in found.summary


def _net(function):
    """One layer and a function of its output."""
    params = {"first": {"w": jnp.eye(3)}}

    def loss(params, x):
        return function(x, x @ params["first"]["w"])

    return Network(loss, params, jnp.asarray([[1.0, 2.0, 0.0], [3.0, 0.0, 1.0]]))


def test_the_operation_that_breaks_the_loss_is_named():
    net = _net(lambda x, h: jnp.sum(jnp.log(h)))
    [found] = check_nonfinite(net.case())
    assert "`log`" in found.summary
    assert "1e-6" in found.remedy
    assert found.evidence[0].value == -jnp.inf


def test_the_root_whose_slope_breaks_the_gradient_is_named():
    net = _net(lambda x, h: jnp.sum(jnp.sqrt(h - x)))
    [found] = check_nonfinite(net.case())
    assert "The loss is finite and its gradient is not" in found.summary
    assert "`sqrt`" in found.summary
    assert found.layers == ("first",)


def test_a_value_that_loss_and_gradient_do_not_read_is_a_note():
    net = _net(lambda x, h: jnp.mean(h))
    batch = {"x": net.batch, "mask": jnp.full(3, -jnp.inf)}
    case = Network(
        lambda params, batch: net.loss(params, batch["x"]) + jnp.exp(batch["mask"]).sum(),
        net.params,
        batch,
    ).case()
    [found] = check_nonfinite(case)
    assert found.severity is Severity.NOTE


def test_blame_looks_at_each_operation():
    budget = Budget(max_seconds=600, max_bytes=None)
    x = jnp.asarray([0.0, 1.0])
    assert first_broken(budget, lambda x: jnp.sin(x), x) is None
    assert first_broken(budget, lambda x: 1 / x + jnp.log(x), x).primitive == "div"
    masked = first_broken(budget, lambda x: jnp.exp(jnp.where(x > 0, x, -jnp.inf)), x)
    assert masked is None  # an infinity that was written down is nobody's fault
    assert first_broken(budget, lambda x: x * 2, x / 0) is None
    assert first_steep(budget, lambda x: jnp.sqrt(x), x + 1) is None

    def scoped(x):
        with jax.named_scope("block"):
            return jnp.log(x)

    assert first_broken(budget, scoped, x).scope == "block"
