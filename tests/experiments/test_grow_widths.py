"""Where units go at a budget of parameters, and units that move at a constant size."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.__main__ import main
from experiments.errors import UsageError
from experiments.growth import costs, moving, pages, widths_tables
from experiments.growth.allocation import (
    ARMS,
    SAME,
    GrowAllocationExperiment,
    Spending,
    in_proportion,
)
from experiments.growth.arms import CRITERIA, Member, mode_of
from experiments.growth.free_head import cut_below_head, group_capacities, layer_capacities
from experiments.growth.gradmax import cross_entropy
from experiments.growth.images import Images
from experiments.growth.programs import Recipe, spec_of, started, train
from experiments.growth.reallocating import GrowReallocateExperiment, uniform_of_size
from experiments.growth.reallocation import reallocate
from experiments.growth.starts import start_of
from experiments.mlp import init, logits
from pfn_optax.growth import Grown, widths

pytestmark = pytest.mark.usefixtures("unoptimized")

SIZES = (6, 9, 8, 2, 7, 3)
PADDED = (6, 12, 12, 12, 12, 3)
KEY = jax.random.key(0)
DATA = Images(
    jax.random.normal(KEY, (64, 6)),
    jax.random.randint(KEY, (64,), 0, 3),
    jax.random.normal(KEY, (8, 6)),
    jax.random.randint(KEY, (8,), 0, 3),
)


def member_of(mode):
    """A network after a few steps, as an arm sees it."""
    recipe = Recipe(PADDED, mode, every=2, batch_size=16)
    ensemble = started(recipe, [init(KEY, SIZES)])
    ensemble, _ = train(recipe, ensemble, [0], 0, 2, DATA)
    host = ensemble.on_host()
    params, seen = jax.tree.map(lambda leaf: leaf[0], (host.params, host.seen))
    return Member(recipe, 0, 0, 2, params, seen, host.specs[0], DATA, 1)


@pytest.fixture(scope="module")
def by_norm():
    return member_of("norm")


def test_an_event_adds_a_share_of_a_group_within_its_allowance():
    plan = Spending(10, 4, num_parameters=20, max_parameters=300, most_share=0.5)
    count, cost = costs.num_parameters(SIZES), costs.unit_cost(SIZES, 3)
    assert plan.affordable(SIZES, SIZES, 0, 3) == min(20 // cost, 1)
    generous = dataclasses.replace(plan, num_parameters=1000, max_parameters=None)
    assert [generous.affordable(SIZES, SIZES, 0, layer) for layer in (1, 2, 3, 4)] == [4, 4, 1, 3]
    full = dataclasses.replace(generous, max_parameters=count + 2 * costs.unit_cost(SIZES, 1))
    assert full.affordable(SIZES, SIZES, 0, 1) == 2


def test_uniform_scaling_grows_what_has_grown_least(by_norm):
    assert in_proportion((9, 4, 2, 7), by_norm)[-1] == "Dense_1"
    assert in_proportion((9, 8, 2, 10), by_norm)[0] == "Dense_3"


@pytest.mark.parametrize(("arm", "other"), SAME.items())
def test_two_capacities_are_other_names_for_these_networks(arm, other, by_norm):
    """With a block per layer squares are in the same order, and dense layers have one position."""
    members = [
        by_norm if mode_of(one) == "norm" else member_of(mode_of(one)) for one in (arm, other)
    ]
    first, second = (
        CRITERIA[one](member) for one, member in zip((arm, other), members, strict=True)
    )
    assert first == second != []


def test_the_group_at_the_cut_gets_and_those_with_slack_give(by_norm):
    flow, passed = group_capacities("norm", by_norm)
    receiver, donors = moving.by_cut("norm")(by_norm)
    assert receiver is not None
    assert passed[receiver] == flow == min(passed.values())
    slack = [name for name in passed if passed[name] > flow]
    assert list(donors) == sorted(slack, key=lambda name: -passed[name])
    narrowest = moving.mover_of("narrowest")
    assert narrowest is not None
    assert narrowest(by_norm) == ("Dense_2", ["Dense_0", "Dense_1", "Dense_3"])
    assert moving.mover_of("nowhere") is None


def test_without_the_head_the_cut_is_the_scarcest_layer_below_it(by_norm):
    capacities = layer_capacities("norm", by_norm)
    *below, head = capacities
    scarcest = min(below, key=lambda name: capacities[name])
    (group,) = cut_below_head("norm", by_norm)
    assert scarcest in (group, f"Dense_{1 + by_norm.groups.index(group)}")
    flow, passed = group_capacities("norm", by_norm, is_head_free=True)
    assert passed["Dense_3"] == capacities["Dense_3"]
    assert flow == capacities[scarcest] >= min(capacities.values())
    assert moving.by_cut("norm", is_head_free=True)(by_norm).receiver == group
    blank = by_norm._replace(seen=by_norm.seen._replace(pfn_cut=0 * by_norm.seen.pfn_cut))
    assert cut_below_head("norm", blank) == []
    assert head == "Dense_4"


def move(receiver, donors, **options):
    recipe = Recipe(PADDED)
    params = init(KEY, SIZES)
    network = Grown(params, spec_of(SIZES), recipe.optimizer.init(params))
    batch = DATA.train, DATA.train_labels
    found = reallocate(
        network,
        receiver,
        donors,
        budget=costs.num_parameters(SIZES),
        batch=batch,
        optimizer=recipe.optimizer,
        kinds=recipe.kinds,
        key=KEY,
        **options,
    )
    return network, found, batch


def test_units_move_within_the_budget_and_the_bound():
    network, found, (inputs, labels) = move(
        "Dense_2", ["Dense_3", "Dense_0"], share=1.0, max_loss_increase=0.1
    )
    assert found.given["Dense_2"] > 0
    assert set(found.taken) <= {"Dense_3", "Dense_0"}
    assert not set(found.taken) & set(found.given)
    sizes = widths(found.network.spec)
    assert sizes["Dense_2"] == 2 + found.given["Dense_2"]
    count = sum(leaf.size for leaf in jax.tree.leaves(found.network.params))
    assert count <= costs.num_parameters(SIZES)
    before, after = (
        float(cross_entropy(logits(one.params, inputs), labels)) for one in (network, found.network)
    )
    np.testing.assert_allclose(after - before, found.loss_change, atol=1e-5)
    assert found.loss_change <= 0.1


@pytest.mark.parametrize(
    "options",
    [
        {"donors": ["Dense_2"]},
        {"donors": ["Dense_0"], "max_loss_increase": -1e9},
        {"donors": ["Dense_0"], "max_units": 2},
    ],
)
def test_without_a_donor_or_room_nothing_moves(options):
    network, found, _ = move("Dense_2", **options)
    assert found.network is network
    assert found.given == found.taken == {}


def test_names_of_starts_and_bad_options():
    assert not set(SAME) & set(ARMS)
    assert start_of("digits, 4-5") == ("digits", (4, 5))
    for name in ("digits", "digits, 4", "nothing, 4-4", "digits, 4-0", "digits, a-b"):
        with pytest.raises(UsageError, match="a data set and two or more widths"):
            start_of(name)
    assert costs.num_parameters(uniform_of_size(SIZES)) <= costs.num_parameters(SIZES)
    for command in (GrowAllocationExperiment, GrowReallocateExperiment):
        with pytest.raises(UsageError, match="at least 2"):
            command(seeds=1)
        with pytest.raises(UsageError, match="take more than"):
            command(steps=10)
        with pytest.raises(UsageError, match="arms are of"):
            command(arms=("anywhere",))
    with pytest.raises(UsageError, match="factor must be above 1"):
        GrowAllocationExperiment(factor=1.0)
    with pytest.raises(UsageError, match="wider than widest allows"):
        GrowReallocateExperiment(starts=("digits, 99-4",))


COMMON = ["--seeds", "2", "--steps", "6", "--every", "2", "--num-events", "2", "--rates", "0.01"]
COMMON += ["--num-train", "100", "--starts", "digits, 4-3", "--widest", "8", "8"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "arms"),
    [
        ("grow-allocation", ["uniform", "cut, norm"]),
        ("grow-reallocate", ["nowhere", "cut, norm", "uniform, from scratch"]),
    ],
)
def test_the_commands(command, arms, tmp_path, capsys):
    arguments = [command, *COMMON, "--arms", *arms, "--run-dir", str(tmp_path / "run")]
    if command == "grow-allocation":
        arguments += ["--scratch", "digits, 4-3"]
    arguments += ["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "out.json").read_text())
    assert (tmp_path / "out.png").stat().st_size > 10_000
    assert [row["arm"] for row in found["rows"]] == arms
    assert all(f"| {arm} |" in printed for arm in arms)
    start = costs.num_parameters((64, 4, 3, 10))
    budget = 4 * start if command == "grow-allocation" else start
    for record in found["grown" if command == "grow-allocation" else "moved"]:
        for network in record["networks"]:
            assert network["num_parameters"] <= budget
            assert 0 <= network["accuracy"] <= 1
    if command == "grow-allocation":
        assert any(any(one["grown"]) for one in found["grown"][0]["networks"])
        fresh = found["scratch"][0]["networks"][0]
        assert fresh["num_steps"] <= 6
        assert fresh["widths"] == found["grown"][0]["networks"][0]["widths"]


def test_the_tables_of_the_page_are_those_of_the_results():
    page = pages.PAGE.read_text("utf-8")
    assert widths_tables.rewritten(page) == page
    assert page.count("| cut, norm |") >= 2
