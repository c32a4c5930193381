"""Ranks and cosines of few rows, and the layers in which examples become the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax import propagation
from pfn_optax.diagnosis import Cause, Severity, rows
from pfn_optax.diagnosis.checks.rank_collapse import check_rank_collapse
from tests.diagnosis.cases import WIDTH, scaled, shifted


def test_measures_on_the_host_are_those_of_the_library():
    values = np.random.default_rng(0).standard_normal((6, 9)).astype(np.float32)
    values[1] = 0
    wide = values.astype(np.float64)
    assert rows.rank(wide) == pytest.approx(float(propagation.activation_rank(values)), rel=1e-5)
    assert rows.cosine(wide) == pytest.approx(float(propagation.mean_cosine(values)), abs=1e-5)
    full = np.delete(wide, 1, axis=0)
    wanted = float(propagation.isometry_gap(full.astype(np.float32)))
    assert rows.isometry_gap(full) == pytest.approx(wanted, rel=1e-3)


def test_measures_of_zeros_of_copies_and_of_nan():
    zeros, copies = np.zeros((4, 3)), np.ones((4, 3))
    assert (rows.rank(zeros), rows.varying_share(zeros)) == (0.0, 0.0)
    assert rows.rank(copies) == pytest.approx(1.0)
    assert rows.cosine(copies) == pytest.approx(1.0)
    assert rows.varying_share(copies) == pytest.approx(0.0)
    assert rows.varying_share(np.eye(4) - 0.25) == pytest.approx(1.0)
    assert rows.isometry_gap(copies) == np.inf
    assert np.isnan(rows.cosine(zeros))
    assert np.isnan(rows.cosine(np.full((4, 3), np.nan)))


def _with_rank(net, num: int, noise: float):
    """Parameters whose second matrix has few directions, and little else."""
    keys = jax.random.split(jax.random.key(3), 2)
    left = jnp.linalg.qr(jax.random.normal(keys[0], (WIDTH, WIDTH)))[0]
    right = jnp.linalg.qr(jax.random.normal(keys[1], (WIDTH, WIDTH)))[0]
    values = jnp.where(jnp.arange(WIDTH) < num, 1.0, noise)
    return {**net.params, "l1": {**net.params["l1"], "w": (left * values) @ right}}


def test_matrices_of_hardly_any_rank(linear_net):
    assert not list(check_rank_collapse(linear_net.case()))
    two = linear_net.case(_with_rank(linear_net, 2, 0.0), directions=0.0)
    assert not list(check_rank_collapse(two))
    [found] = check_rank_collapse(linear_net.case(_with_rank(linear_net, 1, 0.01)))
    assert (found.cause, found.severity) == (Cause.RANK_COLLAPSE, Severity.WARNING)
    assert found.layers == ("l1",)


def test_examples_that_become_the_same(linear_net):
    """A large bias: the mean drowns what differs."""
    share = 1 / 1.2e-4  # the bias squared, over what varies
    for factor, is_found in ((share, False), (2 * share, True)):
        case = linear_net.case(shifted(linear_net.params, "l0", factor**0.5))
        findings = [one for one in check_rank_collapse(case) if "l0" in one.layers]
        assert bool(findings) is is_found
    assert findings[0].cause is Cause.RANK_COLLAPSE
    far = linear_net.case(shifted(linear_net.params, "l0", 1e4))
    assert next(iter(check_rank_collapse(far))).severity is Severity.CRITICAL


def test_examples_that_differ_in_one_direction_behind_a_layer(linear_net):
    for noise, is_found in ((0.3, False), (0.04, True)):
        case = linear_net.case(_with_rank(linear_net, 1, noise), kernel_rank=0.0)
        findings = list(check_rank_collapse(case))
        assert bool(findings) is is_found
    assert findings[0].cause is Cause.RANK_COLLAPSE
    assert "l0" not in findings[0].layers
    data = linear_net.batch["x"]
    line = {**linear_net.batch, "x": data[:, :1] * data[:1]}  # there was one from the beginning
    case = linear_net.case(_with_rank(linear_net, 1, 0.04), line, kernel_rank=0.0)
    assert not list(check_rank_collapse(case))


def test_nothing_is_said_of_a_signal_that_is_zero(linear_net):
    assert not list(check_rank_collapse(linear_net.case(scaled(linear_net.params, "l0", 0.0))))
