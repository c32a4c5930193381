"""The command that condenses, on small images, resumed."""

import json

import numpy as np
import pytest

from experiments.__main__ import main
from experiments.condensation import CondenseExperiment, convolutions
from experiments.condensation.reduction import Reduction
from experiments.errors import UsageError
from pfn_optax.landscape import widen
from pfn_optax.units import unit_spec

pytestmark = pytest.mark.usefixtures("unoptimized")


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


def test_condensing_channels_of_digits(tmp_path, capsys):
    """All ways at equal size, for two seeds; more seeds go on in the same folder."""
    command = ["condense", "--dataset", "digits", "--network", "conv", "--images", "200"]
    command += ["--width", "4", "--steps", "30", "--more-steps", "3", "--sizes", "2", "9"]
    command += ["--run-dir", str(tmp_path / "run"), "--json", str(tmp_path / "found.json")]
    assert main([*command, "--starts", "1"]) == 0
    first = json.loads((tmp_path / "found.json").read_text())
    assert len(first["networks"]) == 3 * 2  # nine channels of four are not asked for
    assert main([*command, "--starts", "2", "--plot", str(tmp_path / "plot.png")]) == 0
    assert "2 channels, magnitude, refit: accuracy" in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["networks"][:6] == first["networks"]
    assert [one["seed"] for one in found["wide"]] == [0, 1]
    for row in found["rows"]:
        own = [
            one["trained"]["test_accuracy"]
            for one in found["networks"]
            if (one["method"], one["is_refit"]) == (row["method"], row["is_refit"])
        ]
        assert row["trained"] == pytest.approx(np.mean(own))


def test_parallel_channels_are_found_and_cost_nothing():
    """A network embedded in one twice as wide, which pruning breaks."""
    draw = np.random.default_rng(0)
    zeros = np.zeros((1, 8, 8, 1), np.uint8), np.zeros(1, int)
    images = convolutions.Images(*zeros, *zeros, (np.zeros(1), np.ones(1)), 3)
    narrow = convolutions.start(0, images, 2, 1.0)
    x = draw.normal(size=(10, 8, 8, 1)).astype(np.float32)
    spec = unit_spec(convolutions.network, narrow, x, check=False)
    sizes = {group.name: group.size for group in spec.groups}
    params, wide = widen(narrow, spec, {name: 2 * size for name, size in sizes.items()})
    reduction = Reduction(
        params, wide, convolutions.network, [(x,)], similarity=0.9, amplitude=1e-3
    )
    assert {name: len(found.kept) for name, found in reduction.clusters.items()} == sizes
    outputs = convolutions.network(params, x)
    change = {}
    for method in ("condense", "magnitude"):
        small, _ = reduction.small(sizes, method, draw=0, is_refit=False)
        change[method] = np.abs(convolutions.network(small, x) - outputs).max()
    assert change["condense"] < 1e-5 < change["magnitude"]


def test_what_reads_tanh_units_is_refitted(tmp_path):
    command = ["condense", "--dataset", "digits", "--activation", "tanh", "--images", "50"]
    command += ["--width", "8", "--scale", "0.3", "--steps", "20", "--more-steps", "2"]
    command += ["--sizes", "4", "--similarity", "0.99", "--run-dir", str(tmp_path / "run")]
    assert main([*command, "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["config"]["activation"] == "tanh"
    assert all(one["is_refit"] for one in found["networks"])
    methods = [one["method"] for one in found["networks"] if one["units"] == 4]
    assert sorted(methods) == ["condense", "magnitude", *["random"] * 5]


def test_options_that_cannot_be():
    with pytest.raises(UsageError, match="steps, more-steps and sizes must be positive"):
        CondenseExperiment(sizes=(10, 0))
    with pytest.raises(UsageError, match=r"learning-rate must be positive; got -1, 0\.5"):
        CondenseExperiment(scale=-1)
    with pytest.raises(UsageError, match="starts must be positive, and 1 but for conv; got 2"):
        CondenseExperiment(starts=2)
    with pytest.raises(UsageError, match="have ReLUs only; got activation tanh"):
        CondenseExperiment(dataset="cifar10", activation="tanh")
