"""Pairs merge better when they are matched, runs go on where they stopped, numbers are right."""

import json

import jax
import numpy as np
import pytest

from experiments.__main__ import main
from experiments.data import load
from experiments.errors import DataUnavailableError, UsageError
from experiments.merge import MergeMLPExperiment, MergeResNetExperiment, mlp, summary
from experiments.merge.mlp_experiment import load as _load
from experiments.merge.paths import batches_of, from_json, to_json
from experiments.merge.resnet import ResNet, train
from pfn_optax.align import Curve

pytestmark = pytest.mark.usefixtures("unoptimized")

DIGITS = load("digits")


def test_batches_hold_the_first_images_of_each_split():
    batches = batches_of(DIGITS, 1200, flat=True)
    assert [len(y) for _, y in batches["train"]] == [1000, 200]
    assert [len(y) for _, y in batches["test"]] == [360]
    images = np.concatenate([x for x, _ in batches["train"]])
    np.testing.assert_allclose(images, DIGITS.train_images[:1200].reshape(1200, 64) / 255)
    assert batches_of(DIGITS, 10)["test"][0][0].dtype == np.uint8


def test_training_depends_on_the_seed_alone_and_learns():
    images = np.float32(DIGITS.train_images.reshape(-1, 64) / 255)
    one, same, other = (
        mlp.train(seed, 16, images, DIGITS.train_labels, epochs=20, num_classes=10)
        for seed in (0, 0, 1)
    )
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert not np.allclose(one["Dense_0"]["kernel"], other["Dense_0"]["kernel"])
    loss, metrics = mlp.cross_entropy(one, images, DIGITS.train_labels)
    assert loss < 1.8  # log 10 = 2.3 is chance
    assert metrics["accuracy"] > 0.5


def test_curves_survive_json():
    curve = Curve(np.linspace(0, 1, 3), np.asarray([1.0, 4.0, 3.0]), {"accuracy": np.ones(3)})
    record = json.loads(json.dumps(to_json({"test": curve})))
    assert record["test"]["barrier"] == 2
    again = from_json(record)["test"]
    np.testing.assert_array_equal(again.losses, curve.losses)
    np.testing.assert_array_equal(again.points, curve.points)


def test_rows_are_means_over_pairs():
    def record(width, barrier, middle):
        split = {"barrier": barrier, "accuracy": [0.8, middle, 1.0]}
        return {"width": width, "arms": {"naive": {"test": split}}}

    rows = summary.by_width([record(8, 1.0, 0.5), record(8, 3.0, 0.7), record(4, 5.0, 0.0)])
    assert [(row["width"], row["pairs"]) for row in rows] == [(8, 2), (4, 1)]
    assert rows[0]["barrier"]["mean"] == 2
    assert rows[0]["accuracy half-way"]["mean"] == pytest.approx(0.6)
    assert rows[0]["accuracy of the ends"]["mean"] == pytest.approx(0.9)
    assert "| 8 | naive | test | 2 | 2.000 [" in summary.text(rows)


ARGUMENTS = "merge --widths 8 24 --epochs 25 --dataset digits --num-images 300 --num-points 5"


def test_the_command_resumes_and_matching_helps(tmp_path, capsys):
    files = {name: tmp_path / f"{name}.png" for name in ("widths", "path")}
    arguments = [*ARGUMENTS.split(), "--run-dir", str(tmp_path / "run"), "--path-width", "24"]
    outputs = ["--json", str(tmp_path / "out.json"), "--plot", str(files["widths"])]
    assert main([*arguments, "--pairs", "2"]) == 0
    lines = (tmp_path / "run" / "pairs.jsonl").read_text().splitlines()
    assert len(lines) == 4
    first = capsys.readouterr().out
    # Cut the last line short, as a crash would: only that pair is done again, with the same end.
    (tmp_path / "run" / "pairs.jsonl").write_text("\n".join(lines)[:-9])
    assert main([*arguments, *outputs, "--path-plot", str(files["path"]), "--pairs", "2"]) == 0
    assert capsys.readouterr().out == first
    again = (tmp_path / "run" / "pairs.jsonl").read_text().splitlines()
    assert again[:3] == lines[:3]
    assert json.loads(again[3])["arms"] == json.loads(lines[3])["arms"]
    assert all(file.read_bytes()[:4] == b"\x89PNG" for file in files.values())

    result = json.loads((tmp_path / "out.json").read_text())
    assert result["config"]["dataset"] == "digits"
    mean = {
        (row["width"], row["arm"]): row["barrier"]["mean"]
        for row in result["rows"]
        if row["split"] == "train"
    }
    assert mean[24, "matched"] < 0.7 * mean[24, "naive"]
    for line in again:
        arms = json.loads(line)["arms"]
        naive = arms["naive"]["train"]["losses"]
        for arm in arms.values():  # the ends are the same two functions in every arm
            np.testing.assert_allclose(arm["train"]["losses"][0], naive[0], rtol=1e-3)
            np.testing.assert_allclose(arm["train"]["losses"][-1], naive[-1], rtol=1e-3)


def test_digits_stand_in_for_mnist(monkeypatch, capsys, tmp_path):
    def unavailable(name, data_dir=None):
        if name == "mnist":
            raise DataUnavailableError("mnist is not there.")
        return _load(name, data_dir)

    monkeypatch.setattr("experiments.merge.mlp_experiment.load", unavailable)
    assert MergeMLPExperiment(data_dir=tmp_path)._load().name == "digits"
    assert "digits of scikit-learn instead" in capsys.readouterr().err


@pytest.mark.slow
def test_residual_networks_train_and_merge(tmp_path):
    network = ResNet(DIGITS, 4)
    state = train(network, DIGITS, seed=0, epochs=6, num_images=1280)
    images, labels = DIGITS.test_images, DIGITS.test_labels
    _, metrics = network.cross_entropy(state, images, labels)
    assert metrics["accuracy"] > 0.4
    file = tmp_path / "out.json"
    MergeResNetExperiment(
        width=4,
        pairs=1,
        epochs=6,
        dataset="digits",
        num_images=200,
        num_points=3,
        run_dir=tmp_path / "run",
        json=file,
        plot=tmp_path / "line.png",
    ).run()
    rows = json.loads(file.read_text())["rows"]
    barrier = {(row["arm"], row["split"]): row["barrier"]["mean"] for row in rows}
    assert barrier["matched, new statistics", "train"] < barrier["naive", "train"]
    assert (tmp_path / "line.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": 0}, "pairs must be at least"),
        ({"pairs": 1, "widths": (8,)}, "pairs must be at least 2, for an interval"),
        ({"num_points": 4}, "num_points must be odd"),
        ({"widths": ()}, "widths must be at least 2"),
        ({"widths": (8,), "path_plot": "x.png"}, "path_width must be one of the widths"),
    ],
)
def test_options_are_checked_first(options, message):
    with pytest.raises(UsageError, match=message):
        MergeMLPExperiment(**options)
    if "widths" not in options:
        with pytest.raises(UsageError, match=message):
            MergeResNetExperiment(**options)
