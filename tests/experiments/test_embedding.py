"""The commands on the embedding principle, at a small size, resumed."""

import json

import jax
import numpy as np
import pytest

from experiments.__main__ import main
from experiments.embedding import (
    EigenvaluesExperiment,
    LossCurvesExperiment,
    LossSpectrumExperiment,
    PlateauExperiment,
    SplitsExperiment,
)
from experiments.embedding.plateaus import _merged
from experiments.embedding.spectrum import _EDGES, descend, histogram, peaks, start
from experiments.errors import UsageError

pytestmark = pytest.mark.usefixtures("unoptimized")


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


def test_losses_are_counted_by_their_logarithms():
    """Against NumPy, with values outside of the bins, 0 and NaN."""
    draw = np.random.default_rng(0)
    # Not on an edge, where the two round differently.
    logs = draw.integers(-230, 20, (20, 50)) / 40 + 0.01
    counts = np.asarray(histogram(np.float32(10**logs)))
    np.testing.assert_array_equal(counts, np.histogram(logs, _EDGES)[0])
    assert not np.asarray(histogram(np.float32([0, np.nan, np.inf, 2]))).any()


def test_lines_of_a_spectrum():
    counts = np.ones(200, int)
    counts[[40, 42, 100]] = 60, 70, 50
    assert peaks(counts) == pytest.approx([-3.9375, -2.4875])


def test_a_spectrum_is_that_of_runs_one_by_one_and_resumed(tmp_path, capsys):
    folder = tmp_path / "run"
    common = ["loss-spectrum", "--starts", "3", "--steps", "1000", "--run-dir", str(folder)]
    common += ["--learning-rate", "0.1", "--json", str(tmp_path / "a.json")]
    assert main([*common, "--widths", "2"]) == 0
    earlier = (folder / "2.npz").stat().st_mtime_ns
    assert main([*common, "--widths", "2", "4", "--plot", str(tmp_path / "plot.png")]) == 0
    assert (folder / "2.npz").stat().st_mtime_ns == earlier
    assert "width 4: final log10 losses" in capsys.readouterr().out
    found = json.loads((tmp_path / "a.json").read_text())["widths"]["4"]
    one = jax.jit(descend, static_argnums=1)
    losses = [np.asarray(one(params, 1000, 0.1)[1]) for params in start(4, 3)]
    assert [values[-1] for values in losses] == pytest.approx(found["final_losses"], rel=1e-4)
    counts = np.histogram(np.log10(losses), _EDGES)[0]
    assert sum(found["counts"]) == counts.sum() == 3000
    # Sums are rounded in another order, which moves a few losses across an edge.
    assert np.abs(np.cumsum(found["counts"]) - np.cumsum(counts)).max() <= 5
    assert main([*common, "--starts", "4"]) == 2


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
    with pytest.raises(UsageError, match="there must be a start and 500 steps; got 3 and 499"):
        LossSpectrumExperiment(starts=3, steps=499)
    with pytest.raises(UsageError, match="cases must be positive; got 0"):
        SplitsExperiment(cases=0)
    with pytest.raises(UsageError, match="starts and newton-steps must be positive; got 0, 1000"):
        EigenvaluesExperiment(starts=0)
