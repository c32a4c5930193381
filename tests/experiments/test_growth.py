"""Ensembles of padded networks grow where their arm says, and compute what they computed."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.__main__ import main
from experiments.errors import UsageError
from experiments.growth import (
    GrowPlantedExperiment,
    GrowWaistExperiment,
    costs,
    planted_command,
    planted_summary,
    waist,
    waist_summary,
)
from experiments.growth.growing import Plan, grown_by, run
from experiments.growth.images import images
from experiments.growth.observers import options_of
from experiments.growth.pages import PAGE, between_marks
from experiments.growth.plants import KINDS, planted
from experiments.growth.programs import Recipe, spec_of, started, train
from experiments.growth.waist_tables import tables
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


@pytest.mark.parametrize("how", ["split", "fresh", "initialised"])
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


@pytest.mark.parametrize("mode", ["global_rank", "norm"])
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


def test_plants_spare_all_but_their_layer():
    sizes = (12, 8, 8, 5, 3)
    cases = {kind: planted(sizes, kind, "Dense_1", 2, seed=1) for kind in KINDS}
    healthy = cases["healthy"]
    for params in cases.values():
        for name in ("Dense_0", "Dense_2", "Dense_3"):
            assert (params[name]["kernel"] == healthy[name]["kernel"]).all()
    kernel = healthy["Dense_1"]["kernel"]
    low = cases["low rank"]["Dense_1"]["kernel"]
    assert np.linalg.matrix_rank(low, tol=1e-4) == 2
    assert np.linalg.norm(low) == pytest.approx(np.linalg.norm(kernel), rel=1e-5)
    assert (cases["frozen"]["Dense_1"]["bias"] == -30).sum() == 6
    is_small = jnp.isclose(cases["dead"]["Dense_1"]["kernel"], 1e-3 * kernel, atol=1e-9).all(0)
    assert is_small.sum() == 6


TINY = ["--dataset", "digits", "--train-images", "100", "--seeds", "2", "--batch-size", "8"]


def test_the_waist_is_grown_and_summed_up(tmp_path, monkeypatch, capsys):
    pieces = (("none", "nowhere"), ("fresh", "cut, norm"), ("equal parameters", "narrowest"))
    pieces += (("none", "from scratch, as cut, norm"),)
    monkeypatch.setattr(waist, "PIECES", pieces)
    files = tmp_path / "waist.json", tmp_path / "waist.png"
    arguments = ["grow-waist", *TINY, "--steps", "8", "--every", "4", "--events", "2"]
    arguments += ["--sizes", *map(str, SIZES), "--padded", *map(str, PADDED)]
    arguments += ["--parameters", "30", "--run-dir", str(tmp_path / "run")]
    assert main([*arguments, "--json", str(files[0]), "--plot", str(files[1])]) == 0
    printed = capsys.readouterr().out
    rows = {row["arm"]: row for row in json.loads(files[0].read_text())["rows"]}
    assert rows["narrowest"]["waist"] > 3
    assert rows["from scratch, as cut, norm"]["widths"] == rows["cut, norm"]["widths"]
    assert rows["cut, norm"]["added_parameters"] > 0
    assert waist_summary.text(list(rows.values())) in printed
    assert files[1].stat().st_size > 10_000
    lines = (tmp_path / "run" / "arms.jsonl").read_bytes()
    assert main(arguments) == 0  # resumed: nothing is left to do
    assert (tmp_path / "run" / "arms.jsonl").read_bytes() == lines


def test_planted_bottlenecks_are_grown_and_summed_up(tmp_path, monkeypatch, capsys):
    pieces = (("frozen", 2, "none", "nowhere"), ("healthy", 0, "none", "nowhere"))
    pieces += (("frozen", 2, "initialised", planted_command.ORACLE),)
    pieces += (("frozen", 2, "split", "narrowest"),)
    monkeypatch.setattr(planted_command, "PIECES", pieces)
    files = tmp_path / "planted.json", tmp_path / "planted.png"
    arguments = ["grow-planted", *TINY, "--steps", "8", "--every", "4", "--events", "2"]
    arguments += ["--pool", "1", "--group", "Dense_2", "--parameters", "40"]
    arguments += ["--sizes", *map(str, SIZES), "--padded", *map(str, PADDED)]
    arguments += ["--run-dir", str(tmp_path / "run")]
    assert main([*arguments, "--json", str(files[0]), "--plot", str(files[1])]) == 0
    rows = json.loads(files[0].read_text())["rows"]
    assert [row["hits"] for row in rows] == [None, None, 1.0, 0.0]
    assert rows[2]["over nowhere"]["low"] <= rows[2]["over nowhere"]["high"]
    assert planted_summary.text(rows) in capsys.readouterr().out
    assert files[1].stat().st_size > 10_000


def test_tables_go_between_their_marks():
    page = "before\n<!-- growth: waist -->\nold\n<!-- end -->\nafter <!-- growth: other -->\n"
    found = between_marks("waist", "new", page)
    assert found == page.replace("old", "new")


def test_the_page_says_what_the_results_say():
    page = PAGE.read_text("utf-8")
    for name, text in tables().items():
        assert f"<!-- growth: {name} -->\n{text}\n<!-- end -->" in page


@pytest.mark.parametrize(
    ("experiment", "options", "message"),
    [
        (GrowWaistExperiment, {"steps": 120}, "steps must be a multiple of every"),
        (GrowWaistExperiment, {"padded": (784, 64, 10)}, "padded must have as many layers"),
        (GrowPlantedExperiment, {"events": 30}, "with room for the events"),
        (GrowPlantedExperiment, {"arms": ("everywhere",)}, "there is no arm everywhere"),
        (GrowPlantedExperiment, {"group": "Dense_9"}, "group must be one of Dense_0"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(experiment, options, message):
    with pytest.raises(UsageError, match=message):
        experiment(**options)
