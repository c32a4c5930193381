"""The commands on the embedding principle, at a small size, resumed."""

import json

import numpy as np
import pytest

from experiments.__main__ import main
from experiments.embedding import (
    EigenvaluesExperiment,
    LossCurvesExperiment,
    PlateauExperiment,
    SplitsExperiment,
)
from experiments.embedding.plateaus import _merged
from experiments.errors import UsageError


def test_units_of_one_direction_are_merged():
    """Amplitudes |a| |(w, b)|, summed; what is next to nothing is left out."""
    params = np.asarray([[3, 6, 0, 1e-4], [4, 8, -2, 0], [1, -0.5, 2, 1e-4]])
    down, up = _merged(params)
    assert down == {"angle": pytest.approx(-np.pi / 2), "amplitude": 4, "num_units": 1}
    assert up == {"angle": pytest.approx(np.arctan2(4, 3)), "amplitude": 10, "num_units": 2}


def test_plateaus_are_trained_once(tmp_path, capsys):
    common = ["--widths", "1", "2", "--starts", "2", "--steps", "1500"]
    common += ["--run-dir", str(tmp_path / "run")]
    curves, plateau = tmp_path / "curves.json", tmp_path / "plateau.json"
    plot = tmp_path / "plot.png"
    assert main(["loss-curves", *common, "--json", str(curves), "--plot", str(plot)]) == 0
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").glob("*.npz")}
    assert len(times) == 2
    assert main(["plateau", *common, "--json", str(plateau), "--plot", str(plot)]) == 0
    assert times == {file: file.stat().st_mtime_ns for file in (tmp_path / "run").glob("*.npz")}
    assert "plateau at the loss" in capsys.readouterr().out
    found = json.loads(plateau.read_text())
    lowest = min(json.loads(curves.read_text())["final_losses"]["1"])
    assert found["level"] == pytest.approx(lowest)
    assert found["widths"]["1"]["largest_difference"] == 0
    assert main(["plateau", *common[:-2], "--run-dir", str(tmp_path / "run"), "--starts", "3"]) == 2


def test_splits_add_what_is_predicted(tmp_path):
    command = ["splits", "--cases", "2", "--run-dir", str(tmp_path / "run")]
    assert main([*command, "--json", str(tmp_path / "splits.json")]) == 0
    found = json.loads((tmp_path / "splits.json").read_text())
    assert found["equal"] == found["cases"] == 2
    for case in found["all"]:
        assert case["gradient_norm"] < 1e-11
        assert sum(case["measured"]) == 3 + (1 + case["seed"] % 2)


@pytest.mark.slow
def test_eigenvalues_of_the_line_are_those_of_the_original(tmp_path):
    command = ["eigenvalues", "--starts", "1", "--newton-steps", "200"]
    command += ["--run-dir", str(tmp_path / "run"), "--json", str(tmp_path / "found.json")]
    assert main([*command, "--plot", str(tmp_path / "plot.png")]) == 0
    shown = json.loads((tmp_path / "found.json").read_text())["shown"]
    counts = [[copy["negative"], copy["zero"]] for copy in shown["line"]["copies"]]
    assert counts == [[0, 0], [1, 1], [2, 2]]
    assert [copy["width"] for copy in shown["iris"]["copies"]] == [2, 3, 4]
    assert all(copy["gradient_norm"] < 1e-11 for copy in shown["iris"]["copies"])


def test_options_that_cannot_be():
    with pytest.raises(
        UsageError, match=r"widths must be increasing, such as 2 3 10; got \(3, 2\)"
    ):
        LossCurvesExperiment(widths=(3, 2))
    with pytest.raises(UsageError, match="there must be a start and 500 steps; got 8 and 499"):
        PlateauExperiment(steps=499)
    with pytest.raises(UsageError, match="cases must be positive; got 0"):
        SplitsExperiment(cases=0)
    with pytest.raises(UsageError, match="starts and newton-steps must be positive; got 0, 1000"):
        EigenvaluesExperiment(starts=0)
