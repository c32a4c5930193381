"""Planted bottlenecks are what they are said to be, and answers are scored by the truth."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from experiments.__main__ import main
from experiments.errors import UsageError
from experiments.planted import PlantedExperiment, experiment, tables
from experiments.planted.bottlenecks import (
    BOTTLENECKS,
    FAULTS,
    KINDS,
    Case,
    healed,
    kinds_of,
    places,
    plant,
)
from experiments.planted.methods import GRAPHS, RIVALS, Answer, answers, layout_of
from experiments.planted.networks import FAMILIES, NARROW, SIZES
from experiments.planted.scores import Score, planted_blocks, score, share
from experiments.planted.training import digit_batches, gradients, train
from pfn_optax.capacity import CAPACITIES
from pfn_optax.paths import natural_key

pytestmark = pytest.mark.usefixtures("unoptimized")

ARCHITECTURES = [architecture for sizes in SIZES.values() for architecture in sizes]
SMALL = SIZES["mlp"][0]


def kernels(case: Case) -> dict[str, np.ndarray]:
    """Kernels as matrices, a column per unit."""
    return {
        name: np.asarray(own["kernel"], np.float64).reshape(-1, own["kernel"].shape[-1])
        for name, own in case.params.items()
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_architectures(architecture):
    names = [layer.name for layer in architecture.layers]
    assert names == sorted(names, key=lambda name: natural_key((name,)))
    params = architecture.init(np.random.default_rng(0))
    images = jax.ShapeDtypeStruct((3, 8, 8, 1), jnp.float32)
    assert jax.eval_shape(architecture.logits, params, images).shape == (3, 10)
    for layer in architecture.layers:
        gain = 2 if layer.is_rectified else 1
        fan_in = np.prod(layer.shape[:-1])
        assert params[layer.name]["kernel"].shape == layer.shape
        if fan_in >= 64:
            variance = np.var(params[layer.name]["kernel"])
            assert variance == pytest.approx(gain / fan_in, rel=0.25)


def test_families_differ_in_size():
    assert set(SIZES) == set(FAMILIES)
    for sizes in SIZES.values():
        counts = [sum(int(np.prod(layer.shape)) for layer in one.layers) for one in sizes]
        assert len(counts) == 2
        assert counts[1] > 2 * counts[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_right_answers(architecture):
    *_, head = (layer.name for layer in architecture.layers)
    for kind in kinds_of(architecture):
        for seed in range(4):
            case = plant(architecture, kind, seed)
            layer = case.architecture.layers[case.place]
            assert case.name in case.answers
            assert (head in case.answers) == (kind == "healthy")
            assert (layer.branch is not None) == (kind == "starved branch")
            assert layer.is_rectified or kind != "frozen half"
            if kind == "starved branch":
                branches = {one.branch for one in architecture.layers if one.name in case.answers}
                assert branches == {layer.branch}
            for name in case.answers - {case.name}:
                index = int(name.split("_")[0])
                assert index == case.place + 1 or kind == "starved branch"


def test_kinds_make_two_groups():
    assert sorted([*BOTTLENECKS, *FAULTS, "healthy"]) == sorted(KINDS)


def test_places_differ_from_seed_to_seed():
    for kind in ("low rank", "starved units", "sub-block"):
        found = {plant(SIZES["mlp"][1], kind, seed).place for seed in range(12)}
        assert found <= set(places(SIZES["mlp"][1], kind)) == {1, 2, 3, 4}
        assert len(found) > 1


@pytest.mark.parametrize("architecture", [SIZES["mlp"][1], SIZES["cnn"][0]], ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_only_the_place_is_planted(architecture, seed):
    healthy = kernels(plant(architecture, "healthy", seed))
    assert all(np.linalg.matrix_rank(kernel) == min(kernel.shape) for kernel in healthy.values())

    narrow = plant(architecture, "narrow", seed)
    widths = {name: kernel.shape[1] for name, kernel in kernels(narrow).items()}
    assert {name for name, width in widths.items() if width == NARROW} == {narrow.name}

    low = plant(architecture, "low rank", seed)
    ranks = {name: np.linalg.matrix_rank(k, tol=1e-4) for name, k in kernels(low).items()}
    assert {name for name, rank in ranks.items() if rank == NARROW} == {low.name}
    assert np.linalg.norm(low.healthy_kernel) == pytest.approx(
        np.linalg.norm(kernels(low)[low.name]), rel=1e-5
    )

    for kind in ("dead group", "starved units"):
        case = plant(architecture, kind, seed)
        sizes = {name: np.linalg.norm(k, axis=0) for name, k in kernels(case).items()}
        alive = {name: np.sum(size > 0.01 * size.max()) for name, size in sizes.items()}
        width = case.mask.shape[-1]
        few = {name: count for name, count in alive.items() if count < sizes[name].size}
        assert few == {case.name: width // 2 if kind == "dead group" else NARROW}

    block = plant(architecture, "sub-block", seed)
    np.testing.assert_allclose(
        block.params[block.name]["kernel"],
        block.healthy_kernel * np.where(block.mask, 1e-3, 1),
        rtol=1e-6,
    )
    *_, inputs, units = block.mask.shape
    assert block.mask.reshape(-1, inputs, units)[0].sum() == (inputs - NARROW) * (units - NARROW)


def test_a_starved_branch_adds_nothing():
    architecture = SIZES["resnet"][0]
    case = plant(architecture, "starved branch", 0)
    assert case.mask.all()
    kernel = case.params[case.name]["kernel"]
    np.testing.assert_allclose(kernel, 1e-3 * case.healthy_kernel, rtol=1e-6)
    silent = case.params | {case.name: jax.tree.map(jnp.zeros_like, case.params[case.name])}
    images, _ = digit_batches(1, 16, seed=0)
    with_it, without = (architecture.logits(p, images[0]) for p in (case.params, silent))
    np.testing.assert_allclose(with_it, without, atol=0.05 * float(np.std(without)))


def test_a_frozen_half_has_no_gradient():
    case = plant(SMALL, "frozen half", 0)
    _, slopes = gradients(SMALL, case.params, digit_batches(2, 64, seed=0))
    slope = np.asarray(slopes[case.name]["kernel"])
    assert not slope[:, case.mask].any()
    assert slope[:, ~case.mask].any(0).mean() > 0.5
    assert case.mask.any(0).sum() == SMALL.width // 2


def test_unfit_kinds_are_refused():
    with pytest.raises(ValueError, match=r"kind must be .* 'mlp'; got 'starved branch'"):
        plant(SMALL, "starved branch", 0)
    with pytest.raises(ValueError, match=r"kind must be .* 'resnet'; got 'starved units'"):
        plant(SIZES["resnet"][0], "starved units", 0)


@pytest.mark.parametrize("kind", ["low rank", "dead group", "starved units", "sub-block"])
def test_healing_is_measured_from_the_plant_to_health(kind):
    case = plant(SMALL, kind, 1)
    well = case.params | {
        case.name: {"kernel": case.healthy_kernel, "bias": case.params[case.name]["bias"]}
    }
    assert healed(case, case.params) == pytest.approx(0, abs=1e-4)
    assert healed(case, well) == pytest.approx(1)


@pytest.mark.parametrize("phase", ["sgd", "adam"])
def test_training_lowers_the_loss(phase):
    batches = digit_batches(30, 64, seed=0)
    params = plant(SMALL, "healthy", 0).params
    before, _ = gradients(SMALL, params, batches)
    after, _ = gradients(SMALL, train(SMALL, phase, params, batches), batches)
    assert after < 0.95 * before


def test_batches_are_real_digits_each_once_per_epoch():
    images, labels = digit_batches(44, 64, seed=3)  # two epochs of 1437, less a few
    assert images.shape == (44, 64, 8, 8, 1)
    assert set(np.unique(labels)) == set(range(10))
    assert float(images.min()) == 0
    assert float(images.max()) == 1
    flat = np.asarray(images).reshape(-1, 64)
    _, counts = np.unique(flat, axis=0, return_counts=True)
    assert counts.max() == 2


@pytest.fixture(scope="module")
def said():
    """What all methods say of small MLPs, by kind."""

    def ask(kind):
        case = plant(SMALL, kind, 0)
        batches = digit_batches(experiment.NUM_BATCHES, experiment.BATCH_SIZE, seed=0)
        _, slopes = gradients(SMALL, case.params, batches)
        return case, answers(SMALL, case.params, slopes, seed=(0,))

    return {kind: ask(kind) for kind in ("healthy", "low rank", "starved units", "sub-block")}


def test_every_method_names_blocks_and_orders_all_layers(said):
    cuts = {f"{graph}: {capacity}" for graph in GRAPHS for capacity in CAPACITIES}
    names = [layer.name for layer in SMALL.layers]
    for _, found in said.values():
        assert set(found) == cuts | set(RIVALS)
        for method, answer in found.items():
            assert sorted(answer.order) == names
            assert set(answer.named) == set(answer.order[: len(set(answer.named))])
            if method in RIVALS:
                assert answer.named == answer.order[:1]


def test_a_plain_chain_is_its_traced_graph(said):
    for _, found in said.values():
        for capacity in CAPACITIES:
            assert found[f"chain: {capacity}"].named == found[f"layers: {capacity}"].named


def test_effective_rank_knows(said):
    for case, found in said.values():
        for method in ("chain: effective_rank", "layers: effective_rank"):
            assert set(found[method].named) <= case.answers
            assert score(found[method], case).recall == 1
        # On a chain it is the layer with the smallest effective rank, no flow needed.
        assert found["chain: effective_rank"].order[0] == found["smallest effective rank"].order[0]


def test_planted_blocks():
    case = plant(SMALL, "sub-block", 0)
    rows = layout_of("chain", SMALL)
    in_rows = planted_blocks(rows, case)
    assert {rows.layers[index].name for index in rows.block_layer[in_rows]} == {case.name}
    assert in_rows.sum() == SMALL.width // NARROW - 1  # all output blocks but one
    cells = layout_of("units", SMALL)
    in_cells = planted_blocks(cells, case)
    assert {cells.layers[index].name for index in cells.block_layer[in_cells]} == {case.name}
    assert in_cells.sum() == (SMALL.width // NARROW - 1) ** 2


def test_scores():
    case = plant(SMALL, "narrow", 0)
    right, reader = sorted(case.answers)
    order = ("4_head", reader, right, "0_dense", "1_dense")
    planted = np.array([True, True, False, False])

    both = Answer(("4_head", right), order, np.array([True, False, True, False]))
    assert score(both, case, planted) == Score(1.0, 0.5, 2, 0.5, 0.5)
    wrong = Answer(("4_head",), order, np.array([False, False, True, False]))
    assert score(wrong, case, planted) == Score(0.0, 0.0, 2, 0.0, 0.0)
    none = Answer((), order, np.zeros(4, bool))
    assert score(none, case, planted) == Score(0.0, None, 2, 0.0, None)
    assert score(Answer(("4_head",), order), case) == Score(0.0, 0.0, 2, None, None)

    healthy = plant(SMALL, "healthy", 0)
    assert score(wrong, healthy, np.zeros(4, bool)).recall == 1  # only the head: the all-clear
    assert score(none, healthy).recall == 1
    assert score(both, healthy).recall == 0


@pytest.mark.parametrize(("hits", "count"), [(0, 5), (3, 7), (24, 24)])
def test_intervals_are_wilsons(hits, count):
    found = share([1.0] * hits + [0.0] * (count - hits))
    oracle = stats.binomtest(hits, count).proportion_ci(method="wilson")
    assert found.mean == pytest.approx(hits / count)
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), abs=1e-6)


def test_a_share_of_nothing_is_refused():
    with pytest.raises(ValueError, match="a share needs at least one number; got none"):
        share([])


def record(kind, phase, recall, *, loss=1.0, rest=0.0):
    own = Score(recall, recall, 1 if recall else 4)._asdict()
    methods = {"chain: rank": own, "random": Score(0.0, None, 2)._asdict()}
    what = {"architecture": "mlp-32", "kind": kind, "seed": 0, "phase": phase}
    return what | {"loss": loss, "healed": rest, "methods": methods}


def test_summary_leaves_out_what_has_healed():
    records = [
        record("narrow", "initial", 1.0),
        record("narrow", "sgd", 0.0, loss=2.0),
        record("low rank", "sgd", 1.0, loss=2.0),
        record("low rank", "adam", 0.0, loss=4.0, rest=0.9),
    ]
    found = tables.summary(records)
    views = found["views"]
    assert found["networks"] == 2
    assert found["losses"]["mlp"] == {"narrow": 2.0, "low rank": 3.0}
    assert found["healed"]["low rank"] == 0.5
    assert views["initial"]["chain: rank"]["narrow"]["recall"].mean == 1
    assert views["trained"]["chain: rank"]["narrow"]["recall"].mean == 0
    assert views["kinds"]["chain: rank"]["narrow"]["rank"] == 2.5
    assert views["kinds"]["chain: rank"]["low rank"]["recall"].count == 1
    assert views["groups"]["chain: rank"]["bottlenecks"]["recall"].mean == pytest.approx(2 / 3)
    assert views["groups"]["random"]["bottlenecks"]["precision"] is None
    [low, high] = json.loads(tables.as_json(found))["views"]["groups"]["chain: rank"][
        "bottlenecks"
    ]["recall"][1:3]
    assert (low, high) == (0.2077, 0.9385)
    assert "| chain: rank | - | 0.67 [0.21, 0.94] | - |" in tables.text(found)


def test_the_command_resumes_where_it_was_left(tmp_path, monkeypatch, capsys):
    kinds = ("healthy", "low rank", "frozen half")  # narrow ones would be compiled anew
    monkeypatch.setitem(experiment.SIZES, "mlp", (SMALL,))
    monkeypatch.setattr(experiment, "kinds_of", lambda _: kinds)
    folder = tmp_path / "run"
    command = ["planted", "--families", "mlp", "--seeds", "1", "--steps", "2"]
    command += ["--run-dir", str(folder), "--json", str(tmp_path / "table.json")]
    assert main([*command, "--plot", str(tmp_path / "table.png")]) == 0
    first = capsys.readouterr().out
    lines = (folder / "networks.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 3 * len(kinds)
    assert json.loads((tmp_path / "table.json").read_text())["networks"] == len(kinds)
    assert (tmp_path / "table.png").stat().st_size > 10_000

    (folder / "networks.jsonl").write_text("".join(lines[:-1]) + lines[-1][:40])
    asked = []
    ask = experiment.answers
    monkeypatch.setattr(experiment, "answers", lambda *a, **b: asked.append(a) or ask(*a, **b))
    assert main(command) == 0
    assert len(asked) == 1
    assert capsys.readouterr().out == first
    assert (folder / "networks.jsonl").read_text() == "".join(lines)
    assert main([*command, "--seeds", "2"]) == 2
    assert "seeds: 1 there, 2 asked for" in capsys.readouterr().err


def test_options_are_checked():
    with pytest.raises(UsageError, match="seeds must be at least 1; got 0"):
        PlantedExperiment(seeds=0)
    with pytest.raises(UsageError, match=r"families must be one or more of mlp, .*; got none"):
        PlantedExperiment(families=())
