"""The steps that a diagnosis makes are those of the optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfn_optax.diagnosis.budget import Budget
from pfn_optax.diagnosis.case import Skip
from pfn_optax.diagnosis.training import measure_training
from tests.diagnosis.quadratics import CURVATURES, case_of, quadratic


def training_of(optimizer, **options):
    return case_of(optimizer=optimizer, **options).once(measure_training)


def own_losses(optimizer, num_steps):
    params = {"w": jnp.ones(20)}
    state, losses = optimizer.init(params), []
    for _ in range(num_steps):
        value, gradients = jax.value_and_grad(quadratic)(params, CURVATURES)
        losses.append(float(value))
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return losses


def test_the_steps_are_those_of_a_training_loop():
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9))
    run = training_of(optimizer).steps
    np.testing.assert_allclose(run.losses[:-1], own_losses(optimizer, 12), rtol=1e-5)


def test_steps_that_only_gather_gradients_are_no_steps():
    training = training_of(optax.MultiSteps(optax.sgd(0.1), 3).gradient_transformation())
    assert training.steps.num_calls == 3 * len(training.steps.steps) == 36
    np.testing.assert_allclose(
        training.steps.losses, training_of(optax.sgd(0.1)).steps.losses, rtol=1e-5
    )


def test_steps_scaled_are_a_learning_rate_scaled():
    scaled = training_of(optax.sgd(0.1)).scaled(0.5)
    np.testing.assert_allclose(scaled.losses, training_of(optax.sgd(0.05)).steps.losses, rtol=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "rate"),
    [
        (optax.sgd(0.03, momentum=0.9), 0.03),
        (optax.adamw(0.003, weight_decay=1e-4), 0.003),
        (optax.inject_hyperparams(optax.rmsprop)(learning_rate=0.02), 0.02),
        (optax.rmsprop(0.02, momentum=0.5), None),
    ],
    ids=["sgd", "adamw", "injected", "unknown"],
)
def test_the_learning_rate_is_read_off_the_first_step(optimizer, rate):
    found = training_of(optimizer).learning_rate
    assert found is None if rate is None else found == pytest.approx(rate, rel=0.02)


def test_schedules_are_looked_up():
    warmup = optax.sgd(optax.warmup_cosine_decay_schedule(1e-5, 0.1, 100, 10_000))
    assert training_of(warmup).later_growth > 1e3
    assert training_of(optax.adam(1e-3)).later_growth == 1
    assert training_of(optax.sgd(optax.linear_schedule(0.0, 0.1, 50))).later_growth == np.inf


def test_adam_does_not_mind_the_scale_of_the_gradient():
    assert training_of(optax.adam(1e-3)).response == pytest.approx(1, abs=0.01)
    assert training_of(optax.sgd(1e-3)).response == pytest.approx(2**20, rel=1e-3)


def test_what_cannot_be_stepped_is_skipped():
    with pytest.raises(Skip, match="no optimizer"):
        case_of().once(measure_training)
    broken = case_of(optimizer=optax.sgd(0.1), batch=CURVATURES.at[0].set(jnp.nan))
    with pytest.raises(Skip, match="not finite"):
        broken.once(measure_training)


def test_steps_are_not_made_without_the_time():
    case = case_of(optimizer=optax.sgd(0.1))
    training = case.once(measure_training)
    case.budget = Budget(max_seconds=1e-9, max_bytes=None)
    with pytest.raises(Skip, match="steps of the optimizer would take"):
        _ = training.steps
