"""The starts are spoilt as they are said to be, and a gain is measured against the right arm."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.__main__ import main
from experiments.errors import UsageError
from experiments.regularise import RegulariseExperiment, summary
from experiments.regularise.networks import ARMS, STARTS, flow, graph, init, smallest_rank
from experiments.regularise.training import digits, train

pytestmark = pytest.mark.usefixtures("unoptimized")


def test_what_the_starts_let_through():
    measured = jax.jit(lambda params: (flow(params), smallest_rank(params)))
    found = {start: measured(init(start, jnp.int32(0))) for start in STARTS}
    flows, ranks = ({start: float(pair[i]) for start, pair in found.items()} for i in (0, 1))
    assert flows["healthy"] == pytest.approx(ranks["healthy"], rel=1e-3)
    assert 7 < ranks["healthy"] < 10
    assert flows["low rank"] == pytest.approx(1, rel=1e-3)
    # What only a flow sees: each layer by itself lets as much through as in the healthy network.
    assert ranks["crossed"] == pytest.approx(ranks["healthy"], rel=1e-3)
    assert flows["crossed"] < 0.2


def test_the_graph_is_one_of_units():
    assert graph().layout is not None
    assert len(graph().nodes) == 2 + 3 * 4


def test_splits_share_no_digit():
    images = [set(map(bytes, np.asarray(split.images))) for split in digits().values()]
    assert sum(map(len, images)) == len(set.union(*images))


def test_each_model_has_its_own_strength_and_pairs_by_seed():
    (outcome,) = train(
        "healthy",
        "weight decay",
        seeds=np.array([0, 0, 0, 1]),
        learning_rates=np.array([0.03, 0.03, 0.03, 0.03]),
        strengths=np.array([0.0, 0.0, 1.0, 0.0]),
        marks=(20,),
    )
    assert outcome.loss[0] == pytest.approx(outcome.loss[1], rel=1e-5)
    assert outcome.loss[2] > outcome.loss[0] + 0.1
    assert abs(outcome.loss[3] - outcome.loss[0]) > 1e-3


def record(arm, *settings):
    """A record of two seeds; a setting is (strength, validation, test)."""
    return {
        "start": "healthy",
        "arm": arm,
        "marks": [
            {
                "step": 10,
                "settings": [
                    {"learning_rate": 0.1, "strength": strength, "validation": validation}
                    | {"test": test, "loss": [1.0, 3.0], "flow": [2.0, 4.0]}
                    | {"smallest_rank": [2.0, 2.0]}
                    for strength, validation, test in settings
                ],
            }
        ],
    }


RECORDS = [
    record("plain", (0.0, [0.5, 0.5], [0.6, 0.7])),
    record("smallest rank", (0.1, [0.5, 0.6], [0.61, 0.72])),
    # The better setting by validation is the worse one by test: it counts all the same.
    record("flow", (0.1, [0.2, 0.2], [0.99, 0.99]), (1.0, [0.9, 0.9], [0.65, 0.73])),
]


def test_settings_are_picked_by_validation_and_compared_by_test():
    _, rival, ours = summary.compare(RECORDS)
    assert ours["strength"] == 1.0
    assert ours["test"] == [0.65, 0.73]
    assert ours["loss"] == 2.0
    assert ours["flow"] == 3.0
    assert ours["over plain"]["mean"] == pytest.approx(0.04)
    assert ours["over smallest rank"]["mean"] == pytest.approx(0.025)
    assert rival["over plain"]["mean"] == pytest.approx(0.015)
    assert "over smallest rank" not in rival
    assert "| flow | 0.1 | 1 | 2.000 | 3.00 | 69.00% | +4.00 [-8.71, +16.71] |" in summary.text(
        [ours]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 1}, "seeds must be at least 2, for an interval; got 1"),
        ({"marks": ()}, r"marks must be steps in increasing order, such as 50 400; got \(\)"),
        ({"marks": (5, 3)}, r"increasing order, such as 50 400; got \(5, 3\)"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UsageError, match=message):
        RegulariseExperiment(**options)


def test_run_is_resumed_where_it_was_left(tmp_path, monkeypatch, capsys):
    trained = []

    def settings_of(start, arm):
        trained.append((start, arm))
        return record(arm, (0.0, [0.5, 0.5], [0.6, 0.7])) | {"start": start}

    monkeypatch.setattr(RegulariseExperiment, "_record", lambda self, *key: settings_of(*key))
    options = ["--seeds", "2", "--marks", "10", "--run-dir", str(tmp_path / "run")]
    options += ["--json", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.png")]
    assert main(["regularise", *options]) == 0
    first = (tmp_path / "a.json").read_text()
    assert len(trained) == len(STARTS) * len(ARMS)

    file = tmp_path / "run" / "arms.jsonl"
    file.write_bytes(file.read_bytes()[:-20])  # a crash while the last line was written
    assert main(["regularise", *options]) == 0
    assert trained[len(STARTS) * len(ARMS) :] == [(STARTS[-1], ARMS[-1])]
    assert (tmp_path / "a.json").read_text() == first
    assert len(json.loads(first)["comparison"]) == len(STARTS) * len(ARMS)
    assert (tmp_path / "a.png").stat().st_size > 0
    assert "| healthy | 10 | flow |" in capsys.readouterr().out

    assert main(["regularise", *options[:1], "3", *options[2:]]) == 2
    assert "another configuration" in capsys.readouterr().err
