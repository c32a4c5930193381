"""The command that condenses, on small images, resumed."""

import json

import numpy as np
import pytest

from experiments.__main__ import main
from experiments.condensation import CondenseExperiment
from experiments.errors import UsageError


def test_condensing_digits(tmp_path, capsys):
    """Early in training all units lie on a few directions, and few of them are enough."""
    folder = tmp_path / "run"
    command = ["condense", "--dataset", "digits", "--images", "100", "--width", "30"]
    command += ["--scale", "1e-6", "--steps", "1000", "--more-steps", "60", "--sizes", "2", "50"]
    command += ["--run-dir", str(folder), "--json", str(tmp_path / "found.json")]
    assert main([*command, "--plot", str(tmp_path / "plot.png")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert f"in {found['clusters']} clusters" in capsys.readouterr().out
    assert found["clusters"] + found["removed"] < 30
    assert sum(found["largest_clusters"]) <= 30 - found["removed"]
    assert len(found["networks"]) == 2 * 2 * (1 + 1 + 5)
    by_way = {
        (one["method"], one["units"], one["is_refit"], one["draw"]): one
        for one in found["networks"]
    }
    size = found["clusters"]
    trained = by_way["condense", size, False, 0]
    assert trained["trained"]["is_reached"]
    assert trained["trained"]["loss"] <= found["wide"]["loss"]
    losses = [
        by_way[method, size, False, 0]["at_once"]["loss"] for method in ("condense", "random")
    ]
    assert losses[0] < losses[1]
    # Made again from the files, to the same numbers.
    times = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    before = (folder / "networks.jsonl").read_bytes()
    assert main(command) == 0
    assert json.loads((tmp_path / "found.json").read_text()) == found
    assert before == (folder / "networks.jsonl").read_bytes()
    assert times[folder / "wide.npz"] == (folder / "wide.npz").stat().st_mtime_ns
    with np.load(folder / "wide.npz") as arrays:
        assert arrays["losses"][-1] == pytest.approx(found["wide"]["loss"], rel=1e-4)


def test_options_that_cannot_be():
    with pytest.raises(UsageError, match="steps, more-steps and sizes must be positive"):
        CondenseExperiment(sizes=(10, 0))
    with pytest.raises(UsageError, match=r"learning-rate must be positive; got -1, 0\.5"):
        CondenseExperiment(scale=-1)
