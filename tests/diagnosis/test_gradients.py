"""Gradients over depth and over time, on both sides of each threshold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax.diagnosis import Cause, Severity
from pfn_optax.diagnosis.checks.gradients import check_gradients
from pfn_optax.diagnosis.signal import measure_signal
from tests.diagnosis.cases import DEPTH, STEPS, scaled


def _norms(case):
    return [float(layer.backward_norm[0]) for layer in case.once(measure_signal).layers]


def test_norms_are_the_gradients_with_respect_to_preactivations(linear_net):
    case = linear_net.case()
    params, batch = linear_net.params, linear_net.batch

    def of_preactivations(shift):
        h = batch["x"]
        for n in range(DEPTH):
            h = h @ params[f"l{n}"]["w"] + shift[n]
        return jnp.mean((h @ params["out"]["w"] + shift[DEPTH] - batch["y"]) ** 2)

    shift = [jnp.zeros((len(batch["x"]), 16))] * DEPTH + [jnp.zeros(batch["y"].shape)]
    wanted = [float(jnp.linalg.norm(one)) for one in jax.grad(of_preactivations)(shift)]
    assert _norms(case) == pytest.approx(wanted, rel=1e-4)


def _with_ratio(net, ratio: float):
    """Parameters with this ratio of the gradients at the first and the last hidden layer."""
    norms = _norms(net.case())
    factor = (ratio / (norms[0] / norms[DEPTH - 1])) ** (1 / (DEPTH - 1))
    params = net.params
    for n in range(1, DEPTH):
        params = scaled(params, f"l{n}", factor)
    # The signal kept as it was: the first layer makes up for the others.
    return scaled(params, "l0", factor ** (1 - DEPTH))


def test_depth_is_found_beyond_the_threshold(linear_net):
    assert not list(check_gradients(linear_net.case()))
    assert not list(check_gradients(linear_net.case(_with_ratio(linear_net, 1.2e-3))))
    [found] = check_gradients(linear_net.case(_with_ratio(linear_net, 0.8e-3)))
    assert (found.cause, found.severity) == (Cause.VANISHING_GRADIENT, Severity.WARNING)
    assert found.layers[0] == "l0"
    assert "l3" not in found.layers
    assert not list(check_gradients(linear_net.case(_with_ratio(linear_net, 0.8e3))))
    [found] = check_gradients(linear_net.case(_with_ratio(linear_net, 1.2e3)))
    assert (found.cause, found.severity) == (Cause.EXPLODING_GRADIENT, Severity.WARNING)
    assert found.excess == pytest.approx(1.2, rel=1e-3)
    [found] = check_gradients(linear_net.case(_with_ratio(linear_net, 1e6)))
    assert found.severity is Severity.CRITICAL


def test_slope_is_that_of_the_logarithms(linear_net):
    case = linear_net.case(_with_ratio(linear_net, 1e-2))
    list(check_gradients(case))
    norms = np.log(_norms(case)[:DEPTH])
    assert case.measures["gradient_slope"] == pytest.approx(np.polyfit(range(DEPTH), norms, 1)[0])


def _with_gain(net, gain: float):
    cell = {**net.params["cell"], "h": gain * net.params["cell"]["h"]}
    return net.case({**net.params, "cell": cell})


@pytest.mark.parametrize(("gain", "is_found"), [(0.55, False), (0.35, True)])
def test_gradients_that_vanish_over_time(recurrent_net, gain, is_found):
    findings = list(check_gradients(_with_gain(recurrent_net, gain)))
    assert bool(findings) is is_found
    if is_found:
        [found] = findings
        assert found.cause is Cause.VANISHING_GRADIENT
        slope = found.evidence[0]
        # The gradient is multiplied by the gain at each step back.
        assert slope.value == pytest.approx(-np.log(gain), rel=1e-4)
        assert {"cell/h", "cell/i"} == set(found.layers)


@pytest.mark.parametrize(("gain", "is_found"), [(1.0, False), (1.8, False), (2.1, True)])
def test_gradients_that_explode_over_time(recurrent_net, gain, is_found):
    findings = list(check_gradients(_with_gain(recurrent_net, gain)))
    assert bool(findings) is is_found
    if is_found:
        assert findings[0].cause is Cause.EXPLODING_GRADIENT
        # Of the first step and the larger of the last two, the last but one.
        assert findings[0].evidence[0].value == pytest.approx(gain ** (STEPS - 2), rel=1e-3)
