"""Scenarios that `diagnose` is judged by: that they are what they say, and how they are scored."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.__main__ import main
from experiments.diagnose import data, experiment, proof, scores, tables
from experiments.diagnose.edits import edited, labels_but, mask_only, rank_limited, scaled
from experiments.diagnose.registry import HELD_OUT, TUNING
from experiments.diagnose.training import trained
from pfn_optax.diagnosis import Cause, Diagnosis, Finding, Severity

pytestmark = pytest.mark.usefixtures("unoptimized")

FAMILIES = {"mlp", "cnn", "resnet", "transformer", "rnn"}


@pytest.mark.parametrize("scenarios", [TUNING, HELD_OUT], ids=["tuning", "held out"])
def test_a_set_has_every_cause_and_every_family(scenarios):
    planted = [one for one in scenarios.values() if not one.is_healthy]
    healthy = [one for one in scenarios.values() if one.is_healthy]
    assert len(planted) >= 24
    assert len(healthy) >= 12
    assert {cause for one in planted for cause in one.causes} == set(Cause)
    assert {one.family for one in planted} == {one.family for one in healthy} == FAMILIES
    assert any(one.recipe.trained for one in healthy)
    assert all(one.why and one.base is not None for one in planted)


def test_the_sets_share_no_recipe():
    assert not set(TUNING) & set(HELD_OUT)
    own = {one.recipe for one in TUNING.values()} | {one.base for one in TUNING.values()}
    others = {one.recipe for one in HELD_OUT.values()} | {one.base for one in HELD_OUT.values()}
    assert own & others == {None}


def test_batches_repeat_and_differ():
    for source in (data.images("digits", size=8, form="rows", delay=3), data.text(size=4)):
        batch = source(0)
        first, again, second, other = batch(0), source(0)(0), batch(1), source(1)(0)
        np.testing.assert_array_equal(first["inputs"], again["inputs"])
        assert (first["inputs"] != second["inputs"]).any()
        assert (first["inputs"] != other["inputs"]).any()
    texts = data.text(size=4, length=10)(0)(0)
    np.testing.assert_array_equal(texts["inputs"][:, 1:], texts["labels"][:, :-1])
    rows = data.images("digits", size=8, form="rows", delay=3)(0)(0)["inputs"]
    assert rows.shape == (8, 11, 8)
    assert not rows[:, 8:].any()
    raw = data.images("digits", size=1000, standard=False)(0)(0)["inputs"]
    assert (raw.min(), raw.max()) == (0, 255)
    standard = data.images("digits", size=1437)(0)(0)["inputs"]
    assert standard.mean() == pytest.approx(0, abs=1e-4)
    assert standard.std() == pytest.approx(1, abs=1e-4)


def test_edits():
    params = {"Dense_1": {"kernel": jnp.ones((2, 2))}, "Dense_10": {"kernel": jnp.ones((2, 2))}}
    changed = scaled("Dense_1/kernel", 3.0)(params)
    np.testing.assert_array_equal(changed["Dense_1"]["kernel"], 3)
    np.testing.assert_array_equal(changed["Dense_10"]["kernel"], 1)
    with pytest.raises(ValueError, match="no parameter has Dense_2 in its path"):
        edited("Dense_2", jnp.zeros_like)(params)
    assert mask_only("'Dense_10'")(params) == {
        "Dense_1": {"kernel": False},
        "Dense_10": {"kernel": True},
    }
    assert labels_but("'Dense_10'")(params)["Dense_10"]["kernel"] == "freeze"
    kernel = jax.random.normal(jax.random.key(0), (6, 4))
    limited = rank_limited(2)(kernel)
    assert np.linalg.matrix_rank(limited, tol=1e-4) == 2
    assert jnp.linalg.norm(limited) == pytest.approx(float(jnp.linalg.norm(kernel)), rel=1e-5)


def test_training_before_a_diagnosis():
    recipe = TUNING["mlp-relu-trained"].recipe
    fresh, setup = trained(recipe, 0, 0), trained(recipe, 0, 40)
    assert fresh.opt_state is None
    assert setup.opt_state is not None
    batch = jax.tree.map(jnp.asarray, recipe.data(0)(0))
    assert float(setup.loss(setup.params, batch)) < 0.5 * float(fresh.loss(fresh.params, batch))


def test_what_is_planted_is_there():
    dead, lost = (TUNING[name](0) for name in ("mlp-dead-relus", "mlp-lost-updates"))
    gradients = jax.jit(jax.grad(dead.loss))(dead.params, dead.batch)
    assert not gradients["Dense_1"]["kernel"].any()
    gradients = jax.jit(jax.grad(lost.loss))(lost.params, lost.batch)
    state = lost.optimizer.init(lost.params)
    steps, _ = lost.optimizer.update(gradients, state, lost.params)
    kernel, step = (tree["Dense_1"]["kernel"] for tree in (lost.params, steps))
    assert step.dtype == kernel.dtype == jnp.bfloat16
    assert np.mean(np.asarray(kernel + step == kernel)) > 0.7


def test_an_optimizer_that_freezes():
    scenario = HELD_OUT["held-lstm-frozen-cell"]
    setup, _ = scenario.recipe.build(0)
    ones = jax.tree.map(jnp.ones_like, setup.params)
    optimizer = setup.optimizer
    assert optimizer is not None
    steps, _ = optimizer.update(ones, optimizer.init(setup.params), setup.params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(steps):
        where = "/" + jax.tree_util.keystr(path, simple=True, separator="/")
        is_frozen = any(f"/{layer}/" in where for layer in scenario.layers)
        assert bool((leaf == 0).all()) == is_frozen


def _finding(cause, severity=Severity.CRITICAL, layers=(), follows_from=None):
    return Finding(cause, severity, "", "", layers=layers, follows_from=follows_from)


def _found(*findings):
    return scores.record(Diagnosis(findings, (), seconds=2.0))


def test_notes_are_no_answers():
    scenario = TUNING["mlp-dead-relus"]
    note = _finding(Cause.DEAD_UNITS, Severity.NOTE)
    other = _finding(Cause.INIT_TOO_SMALL)
    right = _finding(Cause.DEAD_UNITS, layers=("params/Dense_1",))
    assert scores.rank(scenario, _found(note)) is None
    assert scores.rank(scenario, _found(other, right)) == 2
    assert scores.names_layer(scenario, _found(other, right))
    assert not scores.names_layer(scenario, _found(_finding(Cause.DEAD_UNITS, layers=("head",))))
    assert not scores.names_layer(scenario, _found(other))


def test_scores_of_known_records():
    names = ("mlp-dead-relus", "rnn-saturated", "mlp-relu", "mlp-tanh")
    scenarios = {name: TUNING[name] for name in names}
    dead, large = _finding(Cause.DEAD_UNITS), _finding(Cause.INIT_TOO_LARGE)
    note = _finding(Cause.BOTTLENECK, Severity.NOTE)
    found = {
        "mlp-dead-relus": [_found(dead), _found(large, large, dead)],
        "rnn-saturated": [_found(large), _found(dead, large)],
        "mlp-relu": [_found(note), _found()],
        "mlp-tanh": [_found(dead), _found()],
    }
    result = scores.scores(scenarios, found)
    assert [result[f"recall_in_top_{top}"]["mean"] for top in (1, 2, 3)] == [0.5, 0.75, 1.0]
    assert result["false_alarms"] == {"mean": 0.25, "low": 0.0, "high": 0.5}
    assert result["false_alarms_at_most"] == pytest.approx(0.95**0.5)  # 1 of 2: 1 - p^2 = .05
    assert result["missed"] == {"mlp-dead-relus": [["init_too_large"] * 2 + ["dead_units"]]}
    assert result["alarms_on_healthy"] == {"mlp-tanh": [["dead_units"]]}
    assert result["confusion"] == {
        "dead_units": {"dead_units": 0.5, "init_too_large": 0.5},
        "saturation or init_too_large": {"dead_units": 0.5, "init_too_large": 1.0},
        "healthy": {"dead_units": 0.25, "nothing": 0.75},
    }
    assert result["seconds"] == {"median": 2.0, "largest": 2.0}


def test_the_command_scores_a_set_and_goes_on(tmp_path, capsys, monkeypatch):
    chosen = {name: TUNING[name] for name in ("mlp-dead-relus", "mlp-relu")}
    monkeypatch.setattr(experiment, "TUNING", chosen)
    options = ["--seeds", "1", "--run-dir", str(tmp_path / "run")]
    options += ["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
    assert main(["diagnose", *options]) == 0
    first = (tmp_path / "out.json").read_text()
    summary = json.loads(first)["summary"]
    assert summary["recall_in_top_1"]["mean"] == 1
    assert summary["false_alarms"]["mean"] == 0
    assert (tmp_path / "out.png").stat().st_size > 10_000
    file = tmp_path / "run" / "diagnoses.jsonl"
    file.write_bytes(file.read_bytes()[:-20])  # a crash while the last line was written
    assert main(["diagnose", *options]) == 0
    again = json.loads((tmp_path / "out.json").read_text())["summary"]
    assert again["confusion"] == summary["confusion"]
    assert "planted cause among the first 2: 100.0%" in capsys.readouterr().out
    assert main(["diagnose", "--seeds", "2", "--run-dir", str(tmp_path / "run")]) == 2


def test_the_guide_holds_the_committed_scores():
    text = tables.GUIDE.read_text("utf-8")
    found = tables.MARKED.search(text)
    assert found is not None
    assert found[2] == tables.section(), "python -m experiments.diagnose.tables"


def test_the_command_shows_a_scenario(tmp_path, capsys):
    folder = tmp_path / "run"
    options = ["--scenario", "mlp-dead-relus", "--seeds", "1", "--run-dir", str(folder)]
    assert main(["diagnose", *options]) == 0
    printed = capsys.readouterr().out
    assert "Planted: dead_units in Dense_1" in printed
    assert "Dense_1" in (folder / "mlp-dead-relus-0.html").read_text(encoding="utf-8")


def test_the_command_trains_scenarios(tmp_path, monkeypatch, capsys):
    chosen = {name: TUNING[name] for name in ("mlp-dead-relus", "mlp-relu")}
    monkeypatch.setattr(proof, "TUNING", chosen)
    options = ["--steps", "40", "--run-dir", str(tmp_path / "run")]
    assert main(["train-scenarios", *options, "--json", str(tmp_path / "out.json")]) == 0
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert rows[0]["own"]["last"] > rows[0]["base"]["last"]
    assert rows[1]["base"] is None
    assert rows[1]["own"] == rows[0]["base"]
    assert "counterpart" in capsys.readouterr().out


def test_what_cannot_be_asked(capsys):
    for wrong, message in (
        (["diagnose", "--scenario", "no-such"], "there is no scenario no-such"),
        (["diagnose", "--seeds", "0"], "seeds must be at least 1"),
        (["train-scenarios", "--steps", "3"], "steps must be at least 20"),
    ):
        with pytest.raises(SystemExit):
            main(wrong)
        printed = capsys.readouterr()
        assert message in printed.out + printed.err
