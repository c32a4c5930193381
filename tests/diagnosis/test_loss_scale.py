"""The scale of the loss, on both sides of each threshold."""

import optax
import pytest

from pfn_optax.diagnosis import Cause, Severity
from pfn_optax.diagnosis.checks.loss_scale import check_loss_scale
from tests.diagnosis.quadratics import case_of, quadratic


def found_with(scale, optimizer, **options):
    def loss(params, curvatures):
        return scale * quadratic(params, curvatures) / 50  # 1 at the start

    return list(check_loss_scale(case_of(loss, optimizer=optimizer, **options)))


def test_a_loss_that_is_too_small_for_its_optimizer():
    [found] = found_with(1e-8, optax.sgd(0.1))
    assert (found.cause, found.severity) == (Cause.LOSS_SCALE, Severity.CRITICAL)
    assert "by about 1e+08" in found.remedy


def test_or_too_large():
    [found] = found_with(1e6, optax.sgd(0.1))
    assert (found.cause, found.severity) == (Cause.LOSS_SCALE, Severity.CRITICAL)
    assert "by about 1e-06" in found.remedy


@pytest.mark.parametrize(
    ("scale", "optimizer"),
    [(1e-4, optax.sgd(0.1)), (1e-6, optax.adam(0.01)), (1.0, optax.sgd(0.1)),
     (1e6, optax.adam(0.05)), (1e6, optax.sgd(1e-7))],
    ids=["small", "small for Adam", "usual", "large for Adam", "large and stepped so"],
)  # fmt: skip
def test_that_its_optimizer_can_do_with(scale, optimizer):
    assert not found_with(scale, optimizer)


def test_the_thresholds():
    assert found_with(1e-3, optax.sgd(0.01), small_loss=1e-2)
    assert not found_with(1e6, optax.sgd(0.1), large_loss=1e7)
    assert not found_with(1e-8, optax.sgd(0.1), scale_response=1e7)
