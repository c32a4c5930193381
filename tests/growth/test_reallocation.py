"""Units move from where there is room to where the cut is; the number of parameters stays."""

import jax
import numpy as np
import pytest

from pfn_optax.growth import Budget, cost_of
from tests.growth.controlled import X, controller_of, loss, predict, start, trained

pytestmark = pytest.mark.usefixtures("unoptimized")

DATA = {"function": predict, "batches": [(X,)], "loss": loss, "reallocate": True}


def test_slack_pays_for_the_cut():
    params, state = start()
    controller = controller_of(chunk=4, max_loss_increase=0.5, **DATA)
    stepped = controller.step(params, state)
    decision = stepped.decision
    # The groups on both sides are wider than their layers need, and one of them is enough.
    assert decision.grown == {"second": 2}
    assert set(decision.shrunk) <= {"first", "third"}
    assert 0 < cost_of(stepped.params).params <= cost_of(params).params
    assert decision.num_params == cost_of(stepped.params).params
    assert "no layer beside it is bounded by them, and the loss changes by" in decision.reasons[0]
    change = loss(predict(stepped.params, X), X) - loss(predict(params, X), X)
    assert change <= 0.5
    reported = [
        float(reason.rsplit(" ", 1)[1]) for reason in decision.reasons if "shrinks" in reason
    ]
    np.testing.assert_allclose(change, sum(reported), rtol=0.02, atol=1e-5)
    params, state = trained(stepped.params, stepped.optimizer_state)
    stepped = controller.step(params, state)
    assert cost_of(stepped.params).params <= controller.record.reference == 242
    assert "where 242 are allowed" in str(stepped.decision) or stepped.has_changed


def test_what_the_loss_does_not_allow_is_not_done():
    """The least loss is that of the network as it is."""
    params, state = start()
    before = jax.tree.map(np.array, params)
    x = np.random.default_rng(1).normal(size=(64, 4)).astype(np.float32)
    target = predict(params, x)
    data = {"batches": [(x,)], "loss": lambda outputs, x: np.mean(np.square(outputs - target))}
    controller = controller_of(max_loss_increase=0.0, **DATA | data)
    stepped = controller.step(params, state)
    assert not stepped.has_changed
    assert stepped.params is params
    assert stepped.optimizer is controller.optimizer
    first, second, third = stepped.decision.reasons
    assert "stays at 16 units: with 8 the loss would change by +" in first
    assert "of at most +0" in second
    assert "second stays at 2 units: 8 would take 440 parameters where 242 are allowed" in third
    jax.tree.map(np.testing.assert_array_equal, params, before)


def test_room_in_the_number_of_parameters_is_not_room_in_the_budget():
    params, state = start()
    controller = controller_of(max_loss_increase=1.0, budget=Budget(flops=4000), **DATA)
    stepped = controller.step(params, state)
    assert not stepped.has_changed
    assert "FLOPs where 4e+03 are allowed" in str(stepped.decision)
