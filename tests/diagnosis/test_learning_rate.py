"""Steps that are too large or too small, on both sides of each threshold."""

import jax.numpy as jnp
import optax
import pytest

from pfn_optax.diagnosis import Cause, Severity
from pfn_optax.diagnosis.checks.learning_rate import (
    check_learning_rate_too_large,
    check_learning_rate_too_small,
)
from tests.diagnosis.quadratics import case_of, quadratic


def too_large(optimizer, **options):
    return list(check_learning_rate_too_large(case_of(optimizer=optimizer, **options)))


def too_small(optimizer, **options):
    return list(check_learning_rate_too_small(case_of(optimizer=optimizer, **options)))


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(0.3),
        optax.sgd(0.5, momentum=0.9),
        optax.adamw(50.0),
        optax.MultiSteps(optax.sgd(0.3), 2).gradient_transformation(),
    ],
    ids=["sgd", "momentum", "adamw", "multi-steps"],
)
def test_steps_that_raise_the_loss_are_too_large(optimizer):
    [found] = too_large(optimizer)
    assert (found.cause, found.severity) == (Cause.LEARNING_RATE_TOO_LARGE, Severity.CRITICAL)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(0.19),
        optax.sgd(0.05, momentum=0.9),
        optax.adam(0.01),
        optax.chain(optax.clip_by_global_norm(0.05), optax.sgd(0.3)),
        optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 0.01, 10, 1000)),
    ],
    ids=["sgd", "momentum", "adam", "clipped", "warm-up"],
)
def test_steps_that_lower_it_are_neither(optimizer):
    case = case_of(optimizer=optimizer)
    assert not list(check_learning_rate_too_large(case))
    assert not list(check_learning_rate_too_small(case))


def test_the_remedy_is_the_largest_rate_that_lowers_the_loss():
    [found] = too_large(optax.sgd(2.0))  # stable below .2; 2 / 16 is the first of the powers of 4
    assert "to 0.12 (it is 2)" in found.remedy
    assert "clip_by_global_norm(" in found.remedy
    evidence = {one.name: one for one in found.evidence}
    assert evidence["sharpness"].value == pytest.approx(10, rel=0.02)


def test_a_loss_that_becomes_nan_is_critical():
    def loss(params, curvatures):
        return quadratic(params, curvatures) + jnp.sum(params["w"] - jnp.log(params["w"]))

    [found] = too_large(optax.sgd(0.5), loss=loss)
    assert found.severity is Severity.CRITICAL
    assert "infinity or NaN" in found.summary


def test_a_rise_below_the_threshold_is_let_be():
    assert too_large(optax.sgd(0.3))
    assert not too_large(optax.sgd(0.3), loss_rise=100.0)


def test_a_loss_that_rises_however_small_the_steps_are_is_something_else():
    assert not too_large(optax.chain(optax.sgd(0.1), optax.scale(-1.0)))


@pytest.mark.parametrize(
    ("optimizer", "severity", "number"),
    [
        (optax.sgd(1e-7), Severity.WARNING, "to 0.001 (it is 1e-07)"),
        (optax.sgd(1e-10), Severity.CRITICAL, "to 0.001 (it is 1e-10)"),
        (optax.adam(1e-7), Severity.WARNING, "it is 1e-07)"),
    ],
    ids=["sgd", "tiny", "adam"],
)
def test_steps_that_change_nothing_are_too_small(optimizer, severity, number):
    [found] = too_small(optimizer)
    assert (found.cause, found.severity) == (Cause.LEARNING_RATE_TOO_SMALL, severity)
    assert number in found.remedy


def test_a_warm_up_is_not_too_small():
    assert too_small(optax.sgd(1e-9))
    assert not too_small(optax.sgd(optax.linear_schedule(1e-9, 0.1, 1000)))


def test_nor_is_a_minimum():
    def loss(params, curvatures):
        return 1 + quadratic(params, curvatures)

    assert not too_small(optax.sgd(0.1), loss=loss, params={"w": jnp.full(20, 1e-4)})


def test_the_threshold_of_progress():
    optimizer = optax.sgd(1e-4)
    assert not too_small(optimizer)
    assert too_small(optimizer, slow_progress=1e-2)
