"""The ways to average are measured on the same networks, and compared by repeat."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.__main__ import main
from experiments.align_training import AlignTrainingExperiment, summary
from experiments.errors import UsageError

pytestmark = pytest.mark.usefixtures("unoptimized")

WAYS = ("raw", summary.BASELINE, "while training")


def record(number, **accuracies):
    return {
        "repeat": number,
        "single": [0.9, 0.92],
        "change of the last 50 losses": 0.001 * number,
        "ways": {
            way: {"pair": 0.5, "all": accuracies.get(way.replace(" ", "_"), 0.8), "distance": 2.0}
            for way in WAYS
        },
    }


def test_differences_are_paired_by_repeat():
    records = [record(n, while_training=0.8 + 0.1 * n, raw=0.1 * n) for n in (0, 1)]
    rows = {row["way"]: row for row in summary.compare(records)}
    gain = rows["while training"][f"all over {summary.BASELINE}"]
    assert gain["mean"] == pytest.approx(0.05)
    assert gain["low"] < 0 < gain["high"]
    assert rows["raw"]["all"]["mean"] == pytest.approx(0.05)
    assert f"all over {summary.BASELINE}" not in rows[summary.BASELINE]
    text = summary.text(summary.compare(records), records)
    assert "A single network: 91.00" in text
    assert "0.001 apart" in text


def test_bad_options():
    with pytest.raises(UsageError, match="repeats must be at least 2"):
        AlignTrainingExperiment(repeats=1)
    with pytest.raises(UsageError, match="every must be at least 1"):
        AlignTrainingExperiment(every=0)


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    arguments = ["align-training", "--dataset", "digits", "--repeats", "2", "--others", "2"]
    arguments += ["--steps", "20", "--every", "10", "--run-dir", str(tmp_path / "run")]
    arguments += ["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "out.json").read_text())
    assert (tmp_path / "out.png").stat().st_size > 10_000
    for one in found["repeats"]:
        # The same training in another order of the units, and a nearer reference.
        assert one["largest change of a loss"] < 1e-4
        distances = {way: value["distance"] for way, value in one["ways"].items()}
        assert distances["while training"] < distances["raw"]
        assert distances["while training, once more"] <= distances["while training"] * (1 + 1e-5)
        assert np.isfinite(jnp.asarray(one["single"])).all()
    assert main(arguments) == 0  # nothing is trained again
    assert capsys.readouterr().out == printed
