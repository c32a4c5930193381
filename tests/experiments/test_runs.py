"""The run folder: configuration, durable lines, event files without doubles."""

import json
import math
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event

from experiments import runs
from experiments.errors import RunFolderError


def test_same_configuration_is_welcome_back(tmp_path):
    folder = tmp_path / "run"
    runs.open_run(folder, {"seeds": 3, "arms": ["plain"]})
    runs.open_run(folder, {"seeds": 3, "arms": ["plain"]})
    assert "jax" in json.loads((folder / "config.json").read_text())["versions"]


def test_another_configuration_is_refused_unless_overwritten(tmp_path):
    folder = tmp_path / "run"
    runs.open_run(folder, {"seeds": 3, "beta": 1.8})
    (folder / "summary.json").write_text("{}")
    with pytest.raises(
        RunFolderError, match=r"(?s)beta: 1.8 there, 2.0 asked.*--overwrite"
    ) as raised:
        runs.open_run(folder, {"seeds": 3, "beta": 2.0})
    assert "seeds" not in str(raised.value)
    runs.open_run(folder, {"seeds": 3, "beta": 2.0}, overwrite=True)
    assert not (folder / "summary.json").exists()


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunFolderError, match="holds no run"):
        runs.open_run(tmp_path, {}, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_json_has_no_nan(tmp_path):
    runs.write_json(tmp_path / "a" / "x.json", {"loss": [math.nan, math.inf, 1.5], "n": (1, "a")})
    assert json.loads((tmp_path / "a" / "x.json").read_text()) == {
        "loss": [None, None, 1.5],
        "n": [1, "a"],
    }


def record(step, **values):
    return {"kind": "epoch", "step": step, **values}


def test_a_line_cut_short_is_left_out(tmp_path):
    with runs.MetricsLog(tmp_path, keep_bytes=0) as log:
        log.write(record(1, loss=0.5))
        kept = log.num_bytes
        log.write(record(2, loss=math.nan))
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(file.read_bytes() + b'{"kind": "epo')
    assert [line["loss"] for line in runs.read_lines(file)] == [0.5, None]
    with runs.MetricsLog(tmp_path, keep_bytes=kept) as log:
        log.write(record(2, loss=0.25))
    assert [line["loss"] for line in runs.read_lines(file)] == [0.5, 0.25]


def scalars(folder):
    """(tag, step, value) of all event files: records of length, CRC, protocol buffer, CRC."""
    for file in sorted(folder.glob("events.out.tfevents.*")):
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            yield from (
                (value.tag, event.step, value.simple_value) for value in event.summary.value
            )
            content = content[16 + length :]


def test_event_files_hold_each_point_once(tmp_path):
    with runs.MetricsLog(tmp_path, keep_bytes=0) as log:
        log.write(record(1, test_loss=2.0, cut={"layers/0": 1.0}))
        kept = log.num_bytes
        log.write(record(2, test_loss=1.5))
    with runs.MetricsLog(tmp_path, keep_bytes=kept) as log:
        log.write(record(2, test_loss=1.25))
    expected = [("test_loss", 1, 2.0), ("cut/layers/0", 1, 1.0), ("test_loss", 2, 1.25)]
    assert list(scalars(tmp_path)) == expected
