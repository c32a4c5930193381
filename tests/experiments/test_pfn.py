"""`python -m experiments pfn`, for real, on digits."""

import json

import numpy as np
import pytest

from experiments import comparison
from experiments.__main__ import main

pytestmark = pytest.mark.usefixtures("unoptimized")

SHORT = ["--scenario", "hourglass", "--epochs", "2", "--seeds", "2", "--overhead-steps", "3"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of a short comparison."""
    folder = tmp_path_factory.mktemp("runs") / "pfn"
    assert main(["pfn", *SHORT, "--run-dir", str(folder)]) == 0
    return folder


def test_run_folder_is_complete(finished):
    files = {str(path.relative_to(finished)) for path in finished.rglob("*.*") if path.is_file()}
    plots = ["learning_curves", "cut_heat_map-pfn", "cut_heat_map-with_pfn"]
    plots += ["flow_network-pfn", "flow_network-with_pfn"]
    assert {f"plots/{name}.png" for name in plots} <= files
    assert {"config.json", "summary.json", "overhead.json"} <= files
    for arm in ("plain", "pfn", "with_pfn"):
        for seed in range(2):
            assert f"{arm}/seed-{seed}/metrics.jsonl" in files
            assert f"{arm}/seed-{seed}/timings.jsonl" in files
            assert len(list((finished / arm / f"seed-{seed}").glob("events.out.tfevents.*"))) == 1


def test_summary_follows_from_the_metrics(finished):
    summary = json.loads((finished / "summary.json").read_text())
    for arm, entry in summary["arms"].items():
        last = [
            json.loads((finished / arm / f"seed-{seed}/metrics.jsonl").read_text().splitlines()[-1])
            for seed in range(2)
        ]
        for measure in ("test_accuracy", "test_loss", "train_loss"):
            values = [record[measure] for record in last]
            assert entry["final"][measure]["seeds"] == values
            assert entry["final"][measure]["mean"] == pytest.approx(np.mean(values))
            assert entry["by_epoch"][measure][-1] == pytest.approx(np.mean(values))
        assert entry["diverged_seeds"] == []
        assert entry["final"]["train_loss"]["mean"] < entry["by_epoch"]["train_loss"][0]
        assert summary["overhead"][arm]["ratio_to_plain"] > 0
    difference = summary["arms"]["pfn"]["minus_plain"]["test_loss"]
    finals = [summary["arms"][arm]["final"]["test_loss"]["mean"] for arm in ("pfn", "plain")]
    assert difference["mean"] == pytest.approx(finals[0] - finals[1])


def test_bottleneck_is_recorded_by_layer(finished):
    layers, steps, shares = comparison.cut_shares(finished, "pfn")
    assert steps == list(range(1, 45))  # a thirtieth of 44 steps is every step
    assert layers[0] == "layers/0/conv"
    assert layers[-1] == "layers/11"
    assert shares.shape == (len(layers), len(steps))
    assert (shares.sum(axis=0) > 0).all()  # every diagnosis names a bottleneck
    diagnoses = comparison.records(finished, "pfn", "diagnosis")
    assert all(record["certified"] for log in diagnoses for record in log)
    for record in diagnoses[0]:
        for layer, share in record["cut"].items():
            assert (record["multipliers"][layer] > 1) == (share > 0)


def test_arms_share_seeds(finished):
    """PFN amplifies from the first diagnosis on; what comes before is the plain run."""
    first = [
        comparison.records(finished, arm, "epoch")[0][0]["train_loss"] for arm in ("plain", "pfn")
    ]
    assert first[0] == pytest.approx(first[1], rel=0.2)
    assert first[0] != first[1]


def test_finished_run_is_shown_without_training(finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert main(["pfn", *SHORT, "--run-dir", str(finished)]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    printed = capsys.readouterr().out
    for expected in ("epoch", "bottleneck layers", "last epoch", "time per step", "tensorboard"):
        assert expected in printed


def test_another_configuration_is_refused(finished, capsys):
    assert main(["pfn", *SHORT, "--beta", "0.5", "--run-dir", str(finished)]) == 2
    message = capsys.readouterr().err
    assert "beta: 1.8 there, 0.5 asked for" in message
    assert "--overwrite" in message


def test_a_run_that_diverges_is_recorded(tmp_path, capsys):
    options = ["--scenario", "hourglass", "--optimizer", "sgd", "--learning-rate", "1e38"]
    options += ["--epochs", "3", "--seeds", "1", "--arms", "plain", "--overhead-steps", "0"]
    assert main(["pfn", *options, "--run-dir", str(tmp_path / "run")]) == 0
    captured = capsys.readouterr()
    assert "loss not finite in epoch 1" in captured.err
    assert "plain: the loss was not finite in seeds [0]" in captured.out
    [log] = comparison.records(tmp_path / "run", "plain", "epoch")
    assert [record["is_finite"] for record in log] == [False]
    assert log[0]["train_loss"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--optimizer", "adamm"], "Did you mean adam"),
        (["--learning-rate", "-1"], "learning_rate must be positive and finite; got -1.0"),
        (["--optimizer-options", "momentum", "0.9"], "optax.adam has no option 'momentum'"),
        (["--capacity", "size"], "capacity must be"),
        (["--beta", "-1"], "beta must be"),
        (["--block-size", "4", "--num-blocks", "2"], "block_size or num_blocks"),
        (["--batch-size", "5000"], "at most the 1437 training images of digits; got 5000"),
    ],
)
def test_bad_options_are_answered_in_a_sentence(options, message, tmp_path, capsys):
    assert main(["pfn", *options, "--run-dir", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [["--dataset", "imagenet"], ["--seeds", "0"], ["--arms", "plain", "plain"], ["--epochs", "x"]],
)
def test_unreadable_options_end_with_usage(options, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["pfn", *options])
    assert options[0].removeprefix("--") in capsys.readouterr().err
