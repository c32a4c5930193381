"""The theses on signal propagation: the pieces are right, and the commands work when resumed."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.__main__ import main
from experiments.errors import UsageError
from experiments.propagation import (
    IsometryDecayExperiment,
    NormGradientsExperiment,
    RankArchitecturesExperiment,
    RankDepthExperiment,
    RankTrainingExperiment,
    architectures,
    isometry,
    networks,
    norm_gradients,
    rank_depth,
    training,
)
from experiments.propagation.layers import ACTIVATIONS, Layer, batch_norm, kernel, layer_norm
from experiments.propagation.models import ARMS, build
from experiments.propagation.study import curve, point, told
from pfn_optax.propagation import (
    activation_rank,
    gradient_profile,
    isometry_decay,
    isometry_gap,
    mean_cosine,
)

pytestmark = pytest.mark.usefixtures("unoptimized")


def ran(tmp_path, name, options):
    """Runs a command twice and returns what it wrote, which the second time changes nothing."""
    options = [name, *options, "--run-dir", str(tmp_path / "run")]
    options += ["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
    assert main(options) == 0
    first = (tmp_path / "out.json").read_text()
    file = tmp_path / "run" / "pieces.jsonl"
    lines = file.read_bytes()
    assert main(options) == 0
    assert file.read_bytes() == lines  # nothing was measured again
    assert (tmp_path / "out.json").read_text() == first
    assert (tmp_path / "out.png").stat().st_size > 10_000
    return json.loads(first)


def test_norms_of_batches_and_of_samples():
    values = jax.random.normal(jax.random.key(0), (7, 5)) + 1
    uncentred, centred = batch_norm(values, "uncentred"), batch_norm(values, "centred")
    np.testing.assert_allclose(jnp.mean(uncentred**2, axis=0), np.ones(5), rtol=1e-5)
    np.testing.assert_allclose(centred.mean(axis=0), np.zeros(5), atol=1e-6)
    np.testing.assert_allclose(centred.std(axis=0), np.ones(5), rtol=1e-5)
    np.testing.assert_allclose(layer_norm(values).std(axis=1), np.ones(7), rtol=1e-5)
    assert batch_norm(values, "none") is values


@pytest.mark.parametrize("weights", ["gaussian", "uniform", "orthogonal"])
def test_weights_have_variance_one_over_fan_in(weights):
    drawn = kernel(jax.random.key(0), (60, 60), weights)
    assert 60 * drawn.var() == pytest.approx(1, rel=0.06)
    if weights == "orthogonal":
        np.testing.assert_allclose(drawn @ drawn.T, np.eye(60), atol=1e-5)


def test_curves_and_how_they_are_told():
    found = curve([[1.0, 2.0], [3.0, 2.0]])
    assert found["mean"] == [2.0, 2.0]
    assert point(found, 1) == {"mean": 2.0, "low": 2.0, "high": 2.0}
    assert told(point(found, 0), 1) == "2.0 ± 12.7"  # t(.975, 1) s / sqrt(2)


def test_the_exponent_of_a_power_of_the_width():
    records = [{"piece": ("", "", d), "r": [2 * d**0.5, d**0.7]} for d in (16, 32, 64)]
    np.testing.assert_allclose(rank_depth.slopes(records, "r"), [0.5, 0.7])
    assert rank_depth.record_depths(1000) == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]


def test_orthogonal_layers_keep_all_of_a_batch():
    """Rotations of a whole basis: batch norm finds nothing to change, and r stays the width."""
    found = rank_depth.ranks(
        layer=Layer("uncentred", weights="orthogonal"), width=4, depth=300, seeds=2
    )
    np.testing.assert_allclose(found["output"], [4, 4], rtol=1e-3)


def test_linear_layers_without_a_norm_lose_all_but_one_direction():
    at, found = rank_depth.profile(Layer(), 4, 200, 2)
    assert at[-1] == 200
    np.testing.assert_allclose(found["output"][:, -1], [1, 1], atol=1e-2)
    np.testing.assert_array_equal(found["product"], found["output"])


def test_rank_against_depth(tmp_path, monkeypatch, capsys):
    few = {"ReLU, centred": rank_depth.NETWORKS["ReLU, centred"]}
    monkeypatch.setattr(rank_depth, "NETWORKS", few)
    few = {name: rank_depth.DEFINITIONS[name] for name in ("batch 2 d",)}
    monkeypatch.setattr(rank_depth, "DEFINITIONS", few)
    options = ["--widths", "4", "6", "--depth", "20", "--seeds", "2", "--definition-seeds", "5"]
    found = ran(tmp_path, "rank-depth", options)
    assert [len(one["output"]["mean"]) for one in found["networks"]] == 2 * [5]
    low, high = found["definitions"][0]["means_of_five"]
    assert low == high == pytest.approx(found["definitions"][0]["output"]["mean"], abs=0.01)
    assert "exponent of d" in capsys.readouterr().out


def test_samples_of_one_cosine_and_their_gap():
    drawn = isometry.equicorrelated(jax.random.key(0), 5, 64, 0.6)
    expected = np.full((5, 5), 0.6) + 0.4 * np.eye(5)
    np.testing.assert_allclose(drawn @ drawn.T / 64, expected, atol=1e-5)
    np.testing.assert_allclose(drawn.mean(axis=1), np.zeros(5), atol=1e-5)
    theory = isometry.infinite_width("tanh", 5, 0.6, 60)
    assert isometry_gap(drawn) == pytest.approx(theory[0], rel=1e-4)


def test_infinite_width_ends_at_the_rate_of_beta():
    theory = isometry.infinite_width("tanh", 2, 0.5, 60)
    rate = -2 * np.log(2 - float(isometry_decay(ACTIVATIONS["tanh"])))
    assert isometry.fall(theory[-5:]) == pytest.approx(rate, rel=1e-3)


def test_the_window_of_layers_that_count():
    mean = np.array([1.0, 0.3, 0.15, 0.07, 0.04, 0.01, 0.01])
    assert isometry.window(mean, 0.01) == slice(2, 5)
    assert isometry.window(mean, 0.02) is None
    assert isometry.fall(np.exp(-0.3 * np.arange(5))) == pytest.approx(0.3)


def test_isometry_over_depth(tmp_path, capsys):
    options = ["--activations", "relu", "--width", "64", "--samples", "3"]
    found = ran(tmp_path, "isometry-decay", [*options, "--depth", "20", "--seeds", "2"])
    [relu] = found["rows"]
    assert relu["gaps"]["mean"][-1] < 0.3 < relu["gaps"]["mean"][0]
    assert "ln beta_0" in capsys.readouterr().out


def test_gradients_of_rotations_are_of_one_norm():
    layer = Layer("none", "identity", "orthogonal")
    found = norm_gradients.log_norms(layer, 4, 4, 12, jax.random.split(jax.random.key(0), 1))
    np.testing.assert_allclose(found, np.full((1, 12), found[0, 0]), atol=1e-4)


def test_gradients_back_through_batch_norm(tmp_path, monkeypatch, capsys):
    options = ["--shapes", "5", "4", "--depth", "12", "--seeds", "2"]
    pieces = [("gaussian", "relu", "centred", 5, 4), ("orthogonal", "relu", "centred", 5, 4)]
    monkeypatch.setattr(NormGradientsExperiment, "pieces", lambda _: pieces)
    found = ran(tmp_path, "norm-gradients", options)
    assert [row["weights"] for row in found["rows"]] == ["gaussian", "orthogonal"]
    assert {len(row["profile"]) for row in found["rows"]} == {12}
    assert "n = 5, d = 4" in capsys.readouterr().out


def test_blocks_read_what_the_one_before_wrote():
    found = architectures.profiles("ReLU", 6, 32, 2, 1)
    inputs = architectures.images(6)
    key = jax.random.split(jax.random.key(0), 1)[0]
    params: Any = build(ARMS["ReLU"], 32, 2).init(key, inputs)["params"]
    x = inputs @ params["embed"]["kernel"]
    for block, reader in enumerate(params["blocks"]["reader"]["kernel"]):
        x = x @ reader
        assert found["activation_rank"][0, block] == pytest.approx(float(activation_rank(x)), 1e-3)
        x = jax.nn.relu(x)


def test_ranks_of_architectures(tmp_path, capsys):
    options = ["--arms", "dense connections", "--rows", "6", "--width", "32"]
    found = ran(tmp_path, "rank-architectures", [*options, "--depth", "2", "--seeds", "2"])
    assert [row["arm"] for row in found["rows"]] == ["dense connections"]
    assert len(found["rows"][0]["activation_rank"]["mean"]) == 2
    assert "effective rank, last" in capsys.readouterr().out


def test_what_is_watched_first_is_the_start():
    arm = networks.ARMS["ReLU, residual, batch norm"]
    data = training.images("digits")
    sizes = networks.Sizes(64, 6, 3)
    found = networks.train(arm, sizes, data, jnp.int32(1), jnp.float32(1e-2), steps=4, every=2)
    assert found.steps.tolist() == [0, 2]
    assert found.rank.shape == (2, 3)
    key = jax.random.key(1)
    params = networks.init(arm, sizes, key)
    chosen = jax.random.randint(jax.random.fold_in(key, 0), (128,), 0, len(data[1]))
    value, gradient = jax.jit(jax.value_and_grad(networks.loss, 1), static_argnums=0)(
        arm, params, data[0][chosen], data[1][chosen]
    )
    assert found.loss[0] == pytest.approx(float(value), rel=1e-5)
    np.testing.assert_allclose(found.gradient[0], gradient_profile(gradient), rtol=1e-4)
    x = data[2][:128] @ params["Dense_0"]["kernel"]
    x += jax.nn.relu(batch_norm(x, "centred", 1e-5)) @ params["Dense_1"]["kernel"] / 3**0.5
    expected = jax.nn.relu(batch_norm(x, "centred", 1e-5))
    assert found.rank[0, 1] == pytest.approx(float(activation_rank(expected)), rel=1e-3)
    assert found.cosine[0, 1] == pytest.approx(float(mean_cosine(expected)), rel=1e-3)


def test_ranks_during_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "RATES", (1e-2,))
    monkeypatch.setattr(training, "TUNING_SEEDS", (100,))
    options = ["--dataset", "digits", "--arms", "ReLU, residual, batch norm"]
    options += ["--width", "6", "--depth", "3", "--steps", "4", "--every", "2", "--seeds", "2"]
    found = ran(tmp_path, "rank-training", options)
    [arm] = found["arms"]
    assert arm["steps"] == [0, 2]
    assert np.shape(arm["rank"]) == (2, 3)
    assert np.shape(arm["gradient"]) == (2, 4)
    assert "Spearman" in capsys.readouterr().out


def test_correlations_over_arms():
    arms = [
        {
            "final_accuracy": {"mean": accuracy},
            "rank_at_start": {"mean": rank},
            "slope_at_start": {"mean": slope},
        }
        for accuracy, rank, slope in ((0.1, 1, 0.3), (0.5, 2, -0.2), (0.9, 9, 0.1))
    ]
    found = training.correlations(arms)
    assert [round(value, 6) for value in found.values()] == [1, -1]


@pytest.mark.parametrize(
    ("experiment", "options", "message"),
    [
        (RankDepthExperiment, {"seeds": 1}, "seeds must be at least 2, for an interval; got 1"),
        (RankDepthExperiment, {"widths": (8,)}, "widths must be two or more"),
        (RankDepthExperiment, {"depth": 1}, "depth must be at least 2; got 1"),
        (RankDepthExperiment, {"definition_seeds": 1}, "definition_seeds must be at least 2"),
        (IsometryDecayExperiment, {"activations": ("swish",)}, "activations are identity, relu"),
        (IsometryDecayExperiment, {"samples": 1}, "samples must be from 2 to less than the width"),
        (IsometryDecayExperiment, {"cosine": 1.0}, "cosine must be between 0 and 1; got 1.0"),
        (NormGradientsExperiment, {"depth": 5}, "depth must be at least 12; got 5"),
        (NormGradientsExperiment, {"shapes": ((1, 4),)}, "shapes must be pairs of 2 or more"),
        (RankArchitecturesExperiment, {"arms": ("CNN",)}, "arms are ReLU, .*; got CNN"),
        (RankArchitecturesExperiment, {"rows": 1}, "depth and rows must be at least 2"),
        (RankArchitecturesExperiment, {"width": 20}, "width must be a multiple of 32; got 20"),
        (RankTrainingExperiment, {"arms": ("CNN",)}, "arms are ReLU, default, .*; got CNN"),
        (RankTrainingExperiment, {"steps": 7}, "steps must be a positive multiple of every"),
        (RankTrainingExperiment, {"depth": 1}, "depth must be at least 2; got 1"),
    ],
)
def test_bad_options(experiment, options, message):
    with pytest.raises(UsageError, match=message):
        experiment(**options)
