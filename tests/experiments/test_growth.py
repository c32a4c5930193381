"""Ensembles of padded networks grow where their arm says, and compute what they computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.growth import costs
from experiments.growth.growing import Plan, grown_by, run
from experiments.growth.images import images
from experiments.growth.observers import options_of
from experiments.growth.programs import Recipe, spec_of, started, train
from experiments.mlp import init, logits
from pfn_optax import pfn
from pfn_optax.growth import pad, rank_groups

pytestmark = pytest.mark.usefixtures("unoptimized")

SIZES, PADDED = (64, 6, 3, 6, 10), (64, 9, 8, 9, 10)
RECIPE = Recipe(PADDED, every=4, batch_size=8)


@pytest.fixture(scope="module")
def data():
    return images("digits", 100)


@pytest.fixture(scope="module")
def networks():
    return {seed: init(jax.random.key(seed), SIZES) for seed in (3, 5)}


@pytest.mark.parametrize("how", ["split", "fresh"])
def test_what_networks_compute_stays_and_the_padding_is_empty(how, networks, data):
    ensemble, _ = train(RECIPE, started(RECIPE, [*networks.values()]), [3, 5], 0, 4, data)
    additions = [{"Dense_1": 2}, {"Dense_2": 1}]
    wide = grown_by(RECIPE, ensemble, additions, how, [3, 5], 0)
    compute = jax.vmap(logits, (0, None))
    np.testing.assert_allclose(
        compute(wide.params, data.test), compute(ensemble.params, data.test), atol=1e-5
    )
    assert wide.widths == [
        {"Dense_0": 6, "Dense_1": 5, "Dense_2": 6},
        {"Dense_0": 6, "Dense_1": 3, "Dense_2": 7},
    ]
    later, _ = train(RECIPE, wide, [3, 5], 4, 4, data)
    kernels = later.params["Dense_1"]["kernel"]
    assert kernels[0, :6, :5].all()
    assert not kernels[0, 6:].any()
    assert not kernels[0, :, 5:].any()


def test_an_arm_gets_its_budget_and_starts_like_the_others(networks, data):
    plan = Plan(steps=12, num_events=2, num_parameters=70)
    found = {
        arm: run(arm, RECIPE, plan, networks, data)
        for arm in ("nowhere", "narrowest", "uniform", "cut, norm")
    }
    assert all(len(outcome.losses) == 3 for outcomes in found.values() for outcome in outcomes)
    first = [[one.losses[0] for one in outcomes] for outcomes in found.values()]
    assert first[1:] == first[:1] * 3
    for seed in (0, 1):
        assert found["nowhere"][seed].added_parameters == 0
        assert found["narrowest"][seed].grown == ["Dense_1", "Dense_0"]
        assert found["narrowest"][seed].units == [5, 1]
        assert found["uniform"][seed].grown == ["Dense_0", "Dense_1"]
        assert found["uniform"][seed].units == [1, 5]
        for arm in ("narrowest", "uniform", "cut, norm"):
            outcome = found[arm][seed]
            assert 0 <= outcome.added_parameters <= 140
            sizes = (64, *outcome.widths, 10)
            assert outcome.num_parameters == costs.num_parameters(sizes)


def test_no_group_grows_beyond_its_padding(networks, data):
    plan = Plan(steps=8, num_events=2, num_units=6)
    narrow, _ = run("narrowest", RECIPE, plan, networks, data)
    assert narrow.grown == ["Dense_1", "Dense_0"]
    assert narrow.units == [5, 3]


@pytest.mark.parametrize("mode", ["rank", "global_rank", "norm", "jacobian_rank"])
def test_the_cut_does_not_see_the_padding(mode, networks):
    """A padded network and the network itself have the same cut."""
    params = networks[3]
    gradient = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size).reshape(leaf.shape)), params)
    spec, options = spec_of(SIZES), options_of(mode)
    observer = pfn(**options, every=1)
    rankings = []
    for tree in (params, None):
        own, slopes = params, gradient
        if tree is None:
            own, slopes = (
                pad(part, spec, {"Dense_0": 9, "Dense_1": 8, "Dense_2": 9}).params
                for part in (params, gradient)
            )
        _, state = observer.update(slopes, observer.init(own), own)
        rankings.append(rank_groups(state, own, spec, **options))
    assert rankings[0].groups == rankings[1].groups
    assert rankings[0].groups
