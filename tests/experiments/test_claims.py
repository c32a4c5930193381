"""The shared program trains as the real transformations do; controls are what they say."""

import dataclasses
import json
import re
from inspect import signature

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import muon

from experiments import runs
from experiments.__main__ import main
from experiments.claims import ClaimsExperiment, figure, summary, tables, workers
from experiments.claims.actions import multipliers
from experiments.claims.arms import OPTIMIZERS, SCENARIOS, STUDY, Arm, Flow, arms_of
from experiments.claims.optimizers import unit_rate
from experiments.claims.program import Batches, Program
from experiments.claims.protocols import PROTOCOLS
from experiments.claims.rebalance import rescaled, targets
from experiments.claims.setting import averaged
from experiments.claims.training import train
from experiments.errors import UsageError
from pfn_optax import pfn, with_pfn
from pfn_optax.paths import named_leaves

pytestmark = pytest.mark.usefixtures("unoptimized")

SMOKE = PROTOCOLS["smoke"]


STUDY_OF_DIGITS = workers.Study("smoke", "digits", None, lanes=1)


@pytest.fixture(scope="module")
def program():
    """The program of the command's run, so that it is compiled once."""
    return workers.program(STUDY_OF_DIGITS, "hourglass", "sgd")


@pytest.fixture(scope="module")
def setting(program):
    return program.setting


def by_real_transformation(program, arm, rate):
    """The parameters after training by `optax.chain(pfn(...), sgd)` or `with_pfn(sgd, ...)`."""
    setting, inner = program.setting, unit_rate("sgd", steps=SMOKE.steps)
    options = {
        "capacity": arm.flow.capacity,
        "every": round(SMOKE.steps / arm.flow.intervals),
        "renormalize": arm.renormalize,
        **setting.flow(arm.flow),
    }
    scaled = optax.chain(inner, optax.scale(rate))
    is_before = arm.place == "before"
    real = optax.chain(pfn(**options), scaled) if is_before else with_pfn(scaled, **options)
    update = jax.jit(real.update)
    lanes, batches = program.init((0,)), Batches(setting, (0,))
    params = jax.tree.map(lambda leaf: leaf[0], lanes.params)
    state = real.init(params)
    for step in range(SMOKE.steps):
        stacked = jax.tree.map(lambda leaf: leaf[None], params)
        grads, _, _ = program.gradient(lanes._replace(params=stacked), batches.at(step))
        updates, state = update(jax.tree.map(lambda leaf: leaf[0], grads), state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize(
    "arm",
    [
        Arm("study", "study", dataclasses.replace(STUDY, intervals=4)),
        Arm("behind", "default", Flow(intervals=4), place="behind"),
        Arm("norm", "setting", Flow(capacity="norm", intervals=4), renormalize=True),
    ],
    ids=lambda arm: arm.name,
)
def test_the_shared_program_is_the_real_transformation(program, plain_end, arm):
    found = {"plain": plain_end, arm.name: trained(program, arm)}
    real = by_real_transformation(program, arm, 0.3)
    distances = {name: float(distance(params, real)) for name, params in found.items()}
    assert distances[arm.name] < 1e-5
    assert distances["plain"] > 1e-3


def trained(program, arm):
    _, lanes = train(program, arm, rates=[0.3], seeds=(0,), test=program.setting.dataset)
    return jax.tree.map(lambda leaf: leaf[0], lanes.params)


@pytest.fixture(scope="module")
def plain_end(program):
    return trained(program, Arm("plain", "plain", action="none"))


def distance(params, others):
    return optax.tree.norm(jax.tree.map(jnp.subtract, params, others))


def test_lanes_are_runs_of_their_own(setting, program):
    arm = Arm("default", "default", Flow(intervals=2))
    both, _ = train(
        Program(setting, "sgd", 2), arm, rates=[0.03, 0.1], seeds=(0, 1), test=setting.dataset
    )
    alone, _ = train(program, arm, rates=[0.1], seeds=(1,), test=setting.dataset)
    assert both[1]["loss"] == pytest.approx(alone[0]["loss"], rel=1e-4)
    assert both[0]["loss"] != pytest.approx(alone[0]["loss"], rel=1e-4)


def acted(action, diagnosis=1, seed=0):
    amplified = np.asarray([1, 1, 2.8, 4.1, 1, 1, 1, 1], np.float32)
    return multipliers(
        action,
        Flow(),
        cut=amplified > 1,
        persistence=np.asarray([0, 0, 0, 3, 0, 0, 0, 0]),
        amplified=amplified,
        sizes=np.asarray([1, 1, 1, 1, 1, 1, 1, 5], np.float32),
        seed=seed,
        diagnosis=diagnosis,
    )


def test_controls_keep_what_they_say_they_keep():
    for action in ("permuted", "redrawn"):
        assert sorted(acted(action)) == sorted(acted("amplify"))
    np.testing.assert_array_equal(acted("permuted", 1), acted("permuted", 2))
    assert any((acted("permuted", seed=0) != acted("permuted", seed=seed)).any() for seed in (1, 2))
    assert any((acted("redrawn", 1) != acted("redrawn", other)).any() for other in (2, 3))
    np.testing.assert_allclose(acted("uniform"), (5 + 2.8 + 4.1 + 5) / 12 + np.zeros(8), rtol=0.1)
    assert acted("uniform").mean() == pytest.approx((10 + 2.8 + 4.1) / 12)
    decaying = acted("decay")
    assert decaying[2] == pytest.approx(2.8)
    assert 1 < decaying[3] < 2.8
    assert (acted("none") == 1).all()


def test_rebalancing_keeps_the_function_and_lengthens_relative_steps(setting, program):
    lanes = program.init((0,))
    params, state = jax.tree.map(lambda leaf: leaf[0], (lanes.params, lanes.opt_state))
    layout = pfn_layout(setting, params)
    layer = layout.layers[2]
    gains = np.ones(layout.num_blocks, np.float32)
    gains[layer.blocks] = 4
    scales = targets(layout, setting.spec, gains)
    new, _ = rescaled(setting.spec, params, state, scales)
    batch, both = Batches(setting, (0,)).at(0), []
    for each in (params, new):
        stacked = jax.tree.map(lambda leaf: leaf[None], each)
        grads, _, loss = program.gradient(lanes._replace(params=stacked), batch)
        both.append((float(loss[0]), jax.tree.map(lambda leaf: leaf[0], grads)))
    assert both[1][0] == pytest.approx(both[0][0], rel=1e-5)
    ratios = [
        jnp.linalg.norm(layout.leaves(grads)[layer.path])
        / jnp.linalg.norm(layout.leaves(each)[layer.path])
        for each, (_, grads) in zip((params, new), both, strict=True)
    ]
    assert float(ratios[1] / ratios[0]) == pytest.approx(4, rel=1e-3)


def test_what_grows_stays_zero_in_its_padding(program):
    [arm] = [arm for arm in SMOKE.arms_of("hourglass", "sgd") if arm.action == "grow"]
    [record], lanes = train(program, arm, rates=[0.1], seeds=(0,), test=program.setting.dataset)
    before = {group.name: group.size for group in program.setting.spec.groups}
    assert sum(record["widths"].values()) == sum(before.values()) + SMOKE.events
    for path, leaf in named_leaves(lanes.params):
        module = "/".join(path[:-1])
        if path[-1] == "kernel" and module in before:
            size = record["widths"][module]
            assert leaf.shape[-1] == before[module] + SMOKE.events
            assert not leaf[..., size:].any()
            assert all(leaf[..., unit].any() for unit in range(size))


def pfn_layout(setting, params):
    from pfn_optax.graph import layout_of

    options = setting.flow(Flow())
    return layout_of(options["graph"], params, block_size=options["block_size"])


def test_arms_have_names_of_their_own_and_equal_budgets():
    for scenario in SCENARIOS:
        for optimizer in OPTIMIZERS:
            arms = arms_of(scenario, optimizer)
            assert len({arm.name for arm in arms}) == len(arms)
            assert arms[0].name == "plain"
            for protocol in PROTOCOLS.values():
                num_rates = {
                    len(protocol.rates_of(arm, optimizer, scenario))
                    for arm in protocol.arms_of(scenario, optimizer)
                    if optimizer in protocol.optimizers
                }
                assert len(num_rates) <= 1
                assert not {*protocol.seeds} & {*protocol.tuning_seeds}


@pytest.mark.parametrize("name", ["lars", "lamb", "muon", "agc_sgd", "agc_adamw"])
def test_rivals_take_steps_proportional_to_the_rate(name):
    if name == "muon" and "muon_weight_dimension_numbers" not in signature(muon).parameters:
        pytest.skip("this Optax has no muon of kernels yet")
    params = {"conv": {"kernel": jnp.ones((3, 3, 2, 4)) / 3, "bias": jnp.ones(4)}}
    optimizer = unit_rate(name, steps=10)
    grads = jax.tree.map(
        lambda leaf: jnp.cos(jnp.arange(leaf.size, dtype=jnp.float32)).reshape(leaf.shape), params
    )
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    assert all(jnp.isfinite(leaf).all() and leaf.any() for leaf in jax.tree.leaves(updates))
    with pytest.raises(ValueError, match="optimizer must be"):
        unit_rate("sgdd", steps=10)


def test_images_are_averaged():
    images = np.arange(2 * 4 * 4 * 1, dtype=np.uint8).reshape(2, 4, 4, 1)
    assert averaged(images, 2).shape == (2, 2, 2, 1)
    assert averaged(images, 2)[0, 0, 0, 0] == np.round(np.mean([0, 1, 4, 5]))
    with pytest.raises(UsageError, match="cannot be averaged"):
        averaged(images, 3)


def test_jobs_fill_lanes_within_an_arm():
    pieces = [
        workers.Piece("hourglass", "sgd", arm, rate, 0)
        for arm in ("plain", "muon")
        for rate in (1, 2, 3)
    ]
    assert [len(job) for job in workers.jobs(pieces, 2)] == [2, 1, 2, 1]
    assert all(len({piece.arm for piece in job}) == 1 for job in workers.jobs(pieces, 2))


def test_the_command_resumes_and_the_page_shows_it(program, tmp_path, capsys):
    folder, results = tmp_path / "run", tmp_path / "results"
    arguments = ["claims", "--protocol", "smoke", "--run-dir", str(folder)]
    assert main([*arguments, "--results", str(results)]) == 0
    first = capsys.readouterr().out
    found = json.loads((folder / "summary.json").read_text())
    names = [arm.name for arm in SMOKE.arms_of("hourglass", "sgd")]
    [comparison] = found["comparisons"]
    assert list(comparison["arms"]) == names
    assert found["num_runs"] == len(names) * (2 * 1 + 2)
    assert all(name in first for name in names)
    # Half of the comparison is lost, in the middle of a line, and done again.
    file = folder / "compared.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[: len(lines) // 2]) + lines[-1][:20])
    assert main(arguments) == 0
    again = {each["arm"]: each for each in runs.read_lines(file)}
    assert set(again) == set(names)
    kept = json.loads((folder / "summary.json").read_text())["comparisons"][0]["arms"]
    assert {name: own["loss"] for name, own in kept.items()} == {
        name: own["loss"] for name, own in comparison["arms"].items()
    }
    page = tables.section(results)
    assert all(f"| {name} |" in page for name in names)
    assert "![hourglass, sgd: curves and cut]" in page
    assert "| hourglass, sgd | " in page  # the overview
    assert (folder / "plots" / "differences.png").exists()
    pictures = re.findall(r"results/(\S+png)\)", page)
    assert sorted(pictures) == sorted(file.name for file in results.glob("*.png"))
    grown = kept["growth at the cut"]["widths"][0]
    assert sum(grown.values()) > sum(group.size for group in program.setting.spec.groups)


def test_the_page_holds_the_committed_results():
    found = tables.MARKED.search(tables.PAGE.read_text("utf-8"))
    assert found
    assert found[2] == tables.section(), "python -m experiments.claims.tables"


def test_what_the_page_says_in_short_is_in_its_tables():
    page = tables.PAGE.read_text("utf-8")
    before, generated = page.split("<!-- claims: ")
    short = " ".join(before.split("## In short")[1].split("## The protocol")[0].split())
    with_interval = re.compile(r"[+-][\d.]+ \[[+-][\d.]+, [+-][\d.]+\]")
    said = with_interval.findall(short)
    assert len(said) > 5
    assert set(said) <= set(with_interval.findall(generated))
    bare = re.findall(r"(?<!\[)[+-]\d+\.\d\b", with_interval.sub("", short))
    assert len(bare) > 4
    assert all(f" {number} [" in generated for number in bare)


def test_rates_are_chosen_by_validation_and_many_tests_are_corrected():
    records = {
        ("hourglass", "sgd", "plain", rate, seed): {"accuracy": accuracy}
        for rate, accuracy in ((0.1, 0.5), (0.03, 0.5), (0.3, 0.2))
        for seed in (100, 101)
    }
    assert summary.chosen_rates(records) == {("hourglass", "sgd", "plain"): 0.03}
    arms = {"plain": {"family": "plain", "accuracy": [0.1, 0.2, 0.3], "area": [0.1, 0.2, 0.3]}}
    for name, gains in (("better", (0.1, 0.11, 0.12)), ("same", (0.01, -0.01, 0.0))):
        values = [a + b for a, b in zip((0.1, 0.2, 0.3), gains, strict=True)]
        arms[name] = {"family": "setting", "accuracy": values, "area": values}
    summary._compare(arms)
    summary._correct([{"arms": arms}])
    better, same = (arms[name]["minus_plain"]["accuracy"] for name in ("better", "same"))
    assert better["low"] > 0.09
    assert better["p"] <= better["q"] < 0.05 < same["q"]


def test_arms_are_compared_at_each_rate_where_there_are_seeds_enough():
    gains = (0.02, 0.03, 0.04, 0.02, 0.03)
    plain = {"0.01": [0.3, 0.31, 0.32, 0.3, 0.31], "0.1": [0.5] * 5}
    treated = {
        "0.01": [a + b for a, b in zip(plain["0.01"], gains, strict=True)],
        "0.1": [0.5] * 5,
    }
    found = {
        "config": {"tuning_seeds": [*range(5)]},
        "comparisons": [
            {
                "scenario": "hourglass",
                "optimizer": "sgd",
                "arms": {"plain": {"validation": plain}, "study": {"validation": treated}},
            }
        ],
    }
    assert summary.has_rates(found)
    assert not summary.has_rates({"config": {"tuning_seeds": [0, 1]}})
    [low] = [line for line in tables._by_rate(found) if line.startswith("| 0.01 ")]
    assert re.match(r"\| 0.01 \| 30.8 \| \+2.8 \[\+2.\d, \+3.\d\] \|", low)
    assert "| 0.1 | 50.0 | +0.0 [+0.0, +0.0] |" in tables._by_rate(found)
    [axes] = figure.by_rate(found).axes
    assert [line.get_label() for line in axes.lines] == ["plain", "study"]
    np.testing.assert_allclose(axes.lines[1].get_ydata(), [33.6, 50])


def test_bad_requests_are_refused():
    with pytest.raises(UsageError, match="workers must be at least 1"):
        ClaimsExperiment(workers=0)
