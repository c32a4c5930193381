"""Sharpness against a known Hessian, and the edge of stability of each kind of optimizer."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfn_optax.diagnosis.case import Skip
from pfn_optax.diagnosis.checks.learning_rate import check_edge_of_stability
from pfn_optax.diagnosis.sharpness import measure_sharpness
from pfn_optax.diagnosis.training import measure_training
from tests.diagnosis.quadratics import CURVATURES, case_of


@pytest.mark.parametrize(
    ("optimizer", "edge"),
    [
        (optax.sgd(0.1), 0.1 * 10 / 2),
        (optax.sgd(0.1, momentum=0.9), 0.1 * 10 / 3.8),
        (optax.chain(optax.add_decayed_weights(1e-5), optax.sgd(0.05)), 0.05 * 10 / 2),
    ],
    ids=["sgd", "momentum", "decay"],
)
def test_the_edge_of_one_learning_rate(optimizer, edge):
    found = case_of(optimizer=optimizer).once(measure_sharpness)
    assert found.sharpness == pytest.approx(10, rel=0.02)
    assert found.edge == pytest.approx(edge, rel=0.02)
    assert found.largest_rate * found.edge == pytest.approx(0.05 if edge == 0.25 else 0.1, rel=0.01)


@pytest.mark.parametrize("b1", [0.9, 0.5])
def test_the_edge_of_adam_is_that_of_the_preconditioned_hessian(b1):
    params = {"w": jnp.linspace(0.2, 2.0, 20)}
    case = case_of(params=params, optimizer=optax.adam(0.01, b1=b1))
    found = case.once(measure_sharpness)
    run = case.once(measure_training).steps
    _, state = optax.scale_by_adam(b1=b1).update(run.gradients, run.opt_state[0])
    second = np.asarray(state.nu["w"]) / (1 - 0.999 ** float(state.count))
    largest = np.max(np.asarray(CURVATURES) * 0.01 / np.sqrt(second))
    assert found.edge == pytest.approx(largest * (1 - b1) / (2 + 2 * b1), rel=0.05)
    assert found.sharpness is None


def test_without_an_optimizer_the_sharpness_alone():
    assert case_of().once(measure_sharpness)[1:] == (None, None)


def test_an_optimizer_of_an_unknown_kind_has_no_edge():
    found = case_of(optimizer=optax.lion(1e-3)).once(measure_sharpness)
    assert (found.sharpness, found.edge) == (pytest.approx(10, rel=0.02), None)


def test_beyond_the_edge_is_a_note_where_the_loss_falls_all_the_same():
    # One steep direction among many, that the point hardly lies along.
    params, curvatures = {"w": jnp.ones(20).at[-1].set(1e-2)}, CURVATURES.at[-1].set(100.0)
    case = case_of(params=params, batch=curvatures, optimizer=optax.sgd(0.021))
    [found] = check_edge_of_stability(case)
    assert (found.severity.name, "below" in found.remedy.lower()) == ("NOTE", True)
    assert case.measures["edge_of_stability"] == pytest.approx(1.05, rel=0.02)
    case = case_of(params=params, batch=curvatures, optimizer=optax.sgd(0.019))
    assert not list(check_edge_of_stability(case))


def test_narrow_numbers_have_no_sharpness():
    with pytest.raises(Skip, match="32 bits or more, got bfloat16"):
        case_of(params={"w": jnp.ones(20, jnp.bfloat16)}).once(measure_sharpness)
