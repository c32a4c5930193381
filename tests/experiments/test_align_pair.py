"""The command that matches a pair of MLPs."""

import json

import numpy as np
import pytest

from experiments.__main__ import main

pytestmark = pytest.mark.usefixtures("unoptimized")


@pytest.fixture
def pair(tmp_path):
    """A small pair, the second network a permuted copy of the first."""
    draw = np.random.default_rng(0)
    shapes = {"fc1": (6, 5), "fc2": (4, 6), "fc3": (3, 4)}
    a = {f"{layer}.weight": draw.standard_normal(shape) for layer, shape in shapes.items()}
    a |= {f"{layer}.bias": draw.standard_normal(shape[0]) for layer, shape in shapes.items()}
    order = draw.permutation(6)
    b = a | {"fc1.weight": a["fc1.weight"][order], "fc1.bias": a["fc1.bias"][order]}
    b["fc2.weight"] = a["fc2.weight"][:, order]
    file = tmp_path / "pair.npz"
    np.savez(file, **{f"a/{k}": v for k, v in a.items()}, **{f"b/{k}": v for k, v in b.items()})
    return file


def test_a_pair_from_a_file(pair, tmp_path, capsys):
    file = tmp_path / "table.json"
    assert main(["align-pair", "--pair", str(pair), "--json", str(file)]) == 0
    unaligned, *rows = json.loads(file.read_text())["rows"]
    assert unaligned["after"] > 1
    assert [row["after"] for row in rows] == pytest.approx([0] * len(rows), abs=1e-12)
    assert max(row["function_error"] for row in rows) < 1e-10
    printed = capsys.readouterr().out
    assert all(row["method"] in printed for row in rows)
    assert "876" in printed  # the study's seconds


def test_a_trained_pair(monkeypatch, tmp_path):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    file = tmp_path / "table.json"
    assert main(["align-pair", "--epochs", "20", "--json", str(file)]) == 0
    record = json.loads(file.read_text())
    assert record["pair"]["dataset"] == "digits"
    assert min(record["pair"]["test_accuracy"]) > 0.85
    after = {
        row["method"]: row["after"] for row in record["rows"] if row["objective"] == "standardised"
    }
    unaligned = record["rows"][0]["before"]
    assert all(after[f"beam {width}"] < after["greedy"] < unaligned for width in (1, 10, 50, 100))
    assert after["beam 100"] <= after["beam 50"] <= after["beam 10"] <= after["beam 1"]


def test_bad_pairs(pair, tmp_path, capsys):
    assert main(["align-pair", "--pair", str(tmp_path / "none.npz")]) == 2
    assert "no .npz that can be read" in capsys.readouterr().err
    arrays = dict(np.load(pair))
    del arrays["b/fc2.bias"]
    np.savez(pair, **arrays)
    assert main(["align-pair", "--pair", str(pair)]) == 2
    assert "lacks b/fc2.bias" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["align-pair", "--epochs", "0"])
    assert "epochs must be at least 1" in capsys.readouterr().err
