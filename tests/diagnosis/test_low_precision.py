"""What narrow types lose, on both sides of each threshold."""

import jax.numpy as jnp
import optax
import pytest

from pfn_optax.diagnosis import Cause, Severity
from pfn_optax.diagnosis.checks.low_precision import check_low_precision
from tests.diagnosis.quadratics import case_of, quadratic

NARROW = {"w": jnp.ones(20, jnp.bfloat16)}


def found_with(**options):
    return list(check_low_precision(case_of(**options)))


def test_updates_below_the_spacing_of_numbers():
    [found] = found_with(params=NARROW, optimizer=optax.adam(1e-3))  # beside 1 it is 2^-8
    assert (found.cause, found.severity) == (Cause.LOW_PRECISION, Severity.CRITICAL)
    assert found.evidence[0].value == pytest.approx(1)


@pytest.mark.parametrize(
    "options",
    [
        {"params": NARROW, "optimizer": optax.adam(1e-2)},
        {"optimizer": optax.adam(1e-3)},
        {"params": NARROW, "optimizer": optax.adam(1e-3), "lost_updates": 1.0},
    ],
    ids=["larger updates", "float32", "threshold"],
)
def test_updates_above_it(options):
    assert not found_with(**options)


def in_half(scale):
    def loss(params, curvatures):
        half = params["w"].astype(jnp.float16) * 1
        return scale * quadratic({"w": half}, curvatures.astype(jnp.float16)).astype(jnp.float32)

    return loss


def test_gradients_that_underflow_on_the_way_back():
    [found] = found_with(loss=in_half(1e-8))
    assert (found.cause, found.severity) == (Cause.LOW_PRECISION, Severity.CRITICAL)
    assert "Multiply the loss by " in found.remedy
    factor = int(found.remedy.split("Multiply the loss by ")[1].split()[0])
    assert not found_with(loss=in_half(1e-8 * factor))


def test_gradients_that_do_not():
    assert not found_with(loss=in_half(1.0))
    assert not found_with(loss=in_half(1e-8), underflow=1.0)
