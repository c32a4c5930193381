"""The hourglass: its two forms, its padding, its growth, and the command at a small size."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.__main__ import main
from experiments.errors import UsageError
from experiments.growth import GrowHourglassExperiment, hourglass_page, hourglass_tables
from experiments.growth import hourglass_network as network
from experiments.growth.hourglass import harness as harness_of
from experiments.growth.hourglass_arms import ARMS, Arm, narrowest_filled, same_course, train
from experiments.growth.hourglass_training import BLOCK_SIZE, RULES, Setting
from pfn_optax.capacity import CAPACITIES, Statistics, capacity_rule
from pfn_optax.growth import unpad
from pfn_optax.partition import partition

pytestmark = pytest.mark.usefixtures("unoptimized")

SETTING = Setting((4, 4, 1, 4, 4, 4), (8,) * 6, norm=False, batch_size=4, every=2)
SCRATCH = [name for name, arm in ARMS.items() if arm.scratch]


@pytest.fixture(scope="module")
def harness(unoptimized):
    return harness_of(SETTING, "digits", 100, 50)


@pytest.fixture(scope="module")
def trained(harness):
    """A few steps that do not move: the last diagnosis is of the parameters that it still has."""
    run, _ = harness.train(harness.start(0, (4, 5, 3, 4, 4, 6)), 0, range(6), 0.0)
    return run


@pytest.mark.parametrize("norm", [False, True])
def test_patches_are_convolutions(norm):
    params = network.init(0, (3, 5, 2, 4, 3, 4), channels=2, num_classes=3, norm=norm)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 9, 2)), jnp.float32)
    np.testing.assert_allclose(
        network.logits(params, images), network.convolved(params, images), atol=1e-5
    )


def test_costs_are_those_of_the_traced_graph(harness):
    params = harness.start(0).params  # the padded network
    positions = {edge.layer: edge.positions for edge in harness.graph.edges}
    traced = sum(positions[name] * layer["kernel"].size for name, layer in params.items())
    assert harness.flops(SETTING.padded) == 6 * SETTING.batch_size * traced
    assert harness.parameters(SETTING.padded) == sum(x.size for x in jax.tree.leaves(params))


@pytest.mark.parametrize("how", ["fresh", "split"])
def test_growth_keeps_the_function(harness, trained, how):
    grown = harness.grow(trained, "Conv_4", 2, how, seed=0)
    assert grown.widths == [4, 5, 3, 4, 6, 6]
    images = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 8, 1)), jnp.float32)
    before, after = (network.logits(run.params, images) for run in (trained, grown))
    np.testing.assert_allclose(before, after, atol=1e-6)
    # The new units train, and no padding does.
    further, _ = harness.train(grown, 0, range(6, 8), 0.01)
    kernels = [np.asarray(run.params["Conv_5"]["kernel"]) for run in (grown, further)]
    assert np.any(kernels[0][:, :, 4:6] != kernels[1][:, :, 4:6])
    assert not np.any(kernels[1][:, :, 6:])
    assert not np.any(kernels[1][..., 6:])


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_a_padded_diagnosis_is_that_of_the_network(harness, trained, capacity):
    """The cut of a chain is the layer with the least capacity."""
    number = list(RULES).index(capacity)
    known = trained.state[0][number]
    narrow = unpad(trained.params, harness.padded_spec, trained.spec).params
    layout = partition(narrow, block_size=BLOCK_SIZE)
    padded = partition(trained.params, block_size=BLOCK_SIZE)
    of_own = np.concatenate(
        [
            np.arange(whole.blocks.start, whole.blocks.start + own.num_blocks)
            for own, whole in zip(layout.layers, padded.layers, strict=True)
        ]
    )
    rule = capacity_rule(capacity)
    norms = known.pfn_norms[of_own]
    found = rule.block_capacities(Statistics(norms, layout.leaves(narrow), layout), layout)
    np.testing.assert_allclose(known.pfn_capacities[of_own], found, rtol=1e-5)
    positions = {edge.layer: edge.positions for edge in harness.graph.edges}
    totals = {
        layer.name: float(found[layer.blocks].sum())
        * (positions[layer.name] if rule.per_position else 1)
        for layer in layout.layers
    }
    assert float(known.pfn_flow) == pytest.approx(min(totals.values()), rel=1e-5)
    [cut] = {layer.name for layer in padded.layers if known.pfn_cut[layer.blocks].any()}
    assert totals[cut] == pytest.approx(min(totals.values()))  # ranks of single blocks are ties


def test_arms_grow_what_they_should(harness):
    def grown(name, budget=0):
        options = {"seed": 0, "rate": 0.01, "steps": 10, "events": 4, "budget": budget}
        return train(harness, ARMS[name], **options)

    narrowest = grown("narrowest")
    assert narrowest["grown"] == ["Conv_2", "Conv_2", "Conv_2", "Conv_0"]
    assert tuple(narrowest["widths"][-1]) == narrowest_filled(SETTING.widths, 4)
    assert grown("uniform")["grown"] == ["Conv_0", "Conv_1", "Conv_2", "Conv_3"]
    assert grown("nowhere")["added"] == 0
    within = grown("uniform, as many parameters", budget=narrowest["added"])
    assert 0 < within["added"] <= narrowest["added"]
    cut = grown("cut: effective_rank")
    assert cut["grown"] == [found["effective_rank"] for found in cut["named"]]
    assert same_course(cut, "effective_rank")
    assert not same_course(narrowest, "jacobian_rank")
    assert cut["flops"] == sum(2 * harness.flops(own) for own in cut["widths"])


def test_a_full_group_is_left(harness):
    only = Arm(where=lambda moment: "Conv_2")
    start = (4, 4, 7, 4, 4, 4)
    record = train(harness, only, seed=0, rate=0.01, steps=8, events=3, start=start)
    assert record["grown"] == ["Conv_2", None, None]


def test_amplified_arms_train_otherwise(harness):
    run = harness.start(0, (4,) * 6)
    plain, default, rank = (
        harness.train(run, 0, range(6), 0.01, amplification)[0].params
        for amplification in ((0.0, 0.0), (1.8, 0.0), (0.0, 1.8))
    )
    for one, other in ((plain, default), (plain, rank), (default, rank)):
        equal = jax.tree.map(np.allclose, one, other)
        assert not all(jax.tree.leaves(equal))


def test_the_command(tmp_path, capsys, harness):
    options = ["--dataset", "digits", "--num-train", "100", "--num-test", "50", "--seeds", "2"]
    options += ["--steps", "6", "--every", "2", "--events", "2", "--batch-size", "4"]
    options += ["--width", "4", "--run-dir", str(tmp_path / "run"), "--rates", "0.01", "0.02"]
    arms = ["nowhere", "uniform", "cut: norm", "cut: energy", *SCRATCH]
    options += ["--arms", *arms]
    options += ["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
    assert main(["grow-hourglass", *options]) == 0
    first = (tmp_path / "out.json").read_text()
    found = json.loads(first)
    assert [row["arm"] for row in found["arms"]] == arms
    rows = {row["arm"]: row for row in found["arms"]}
    assert rows["uniform"]["units"] == 2
    assert rows["uniform"]["hits"] == 0
    assert rows["from scratch, equal steps"]["widths"] == rows["cut: norm"]["widths"]
    assert rows["from scratch, equal FLOPs"]["flops"] <= rows["cut: norm"]["flops"]
    assert (tmp_path / "out.png").stat().st_size > 10_000
    assert "| norm |" in hourglass_tables.named_text(found["arms"])
    file = tmp_path / "run" / "networks.jsonl"
    file.write_bytes(file.read_bytes()[:-20])  # a crash while the last line was written
    assert main(["grow-hourglass", *options]) == 0
    assert (tmp_path / "out.json").read_text() == first
    assert "| from scratch, equal FLOPs |" in capsys.readouterr().out


def test_the_page_holds_the_committed_results():
    page = hourglass_page.PAGE.read_text("utf-8")
    assert "| cut: norm |" in page
    assert page == hourglass_page.filled(page), "python -m experiments.growth.hourglass_page"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"steps": 100, "every": 10, "events": 10}, "leave steps to train"),
        ({"arms": ("cut: typo",)}, "arms must be among"),
        ({"arms": ("from scratch, equal steps",)}, "needs the arm 'cut: norm'"),
        ({"rates": ()}, "rates must be one or more"),
    ],
)
def test_bad_requests(options, message):
    with pytest.raises(UsageError, match=message):
        GrowHourglassExperiment(**options)
