import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax.numpy as jnp
import optax
import pytest

import pfn_optax
from pfn_optax import __main__ as entry
from pfn_optax.diagnosis import Diagnosis, TrainingSetup
from pfn_optax.diagnosis.command import exit_code, main, num_bytes, show
from pfn_optax.diagnosis.factory import FactoryError, as_setup, setup_from
from tests.diagnosis.examples import ALL

MODULE = textwrap.dedent("""
    import jax, jax.numpy as jnp, numpy as np, optax
    from pfn_optax.diagnosis import TrainingSetup

    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)

    def make_setup(bias=0.0):
        draw = np.random.default_rng(1).normal
        params = {
            name: {"w": draw(size=(4, 4)).astype(np.float32) / 2, "b": np.full(4, b, np.float32)}
            for name, b in (("hidden", bias), ("head", 0.0))
        }
        return loss, params, x

    def loss(params, x):
        h = jax.nn.relu(x @ params["hidden"]["w"] + params["hidden"]["b"])
        return jnp.mean((h @ params["head"]["w"] + params["head"]["b"] - x) ** 2)

    class Factories:
        @staticmethod
        def dead():
            return make_setup(bias=-99.0)

    def as_record():
        return TrainingSetup(*make_setup(), optimizer=optax.sgd(0.1))

    def as_mapping():
        return dict(zip(("loss", "params", "batch"), make_setup()), has_aux=False)

    def with_optimizer():
        return *make_setup(), optax.adam(1e-3)

    def vector():
        return (lambda params, x: x), *make_setup()[1:]

    def breaks_in_the_loss():
        return (lambda params, x: params["no such"]), *make_setup()[1:]

    def raises():
        raise OSError("no data")

    def needs(argument):
        return argument

    number = 3
""")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the user's module, left as it was found."""
    (tmp_path / "my_project").mkdir()
    (tmp_path / "my_project" / "train.py").write_text(MODULE)
    (tmp_path / "imports_missing.py").write_text("import no_such_library")
    (tmp_path / "does_not_parse.py").write_text("def (")
    (tmp_path / "is_empty.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("my_project")]:
        monkeypatch.delitem(sys.modules, name)


def test_what_is_wrong_is_shown_written_and_told_by_the_exit_code(project, capsys):
    arguments = "diagnose my_project.train:Factories.dead --html a.html --json a.json --quiet"
    assert main([*arguments.split(), "--max-bytes", "1G"]) == 1
    out = capsys.readouterr().out
    diagnosis = Diagnosis.from_json((project / "a.json").read_text("utf-8"))
    assert out == f"{diagnosis}\n"
    assert "dead units" in out
    assert (project / "a.html").read_text("utf-8") == diagnosis.html()


def test_json_may_go_where_the_text_would(project, capsys):
    arguments = "diagnose my_project.train:as_record --json - --fail-on never --max-seconds 1e-9"
    assert main(arguments.split()) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "pfn_optax.diagnosis"


@pytest.mark.parametrize("fail_on", ["note", "warning", "critical", "never"])
def test_exit_codes(fail_on):
    order = ["note", "warning", "critical", "never"]
    found = ALL["sick"].findings
    for index, finding in enumerate((found[2], found[1], found[0])):
        diagnosis = Diagnosis((finding,), ())
        assert exit_code(diagnosis, fail_on) == int(index >= order.index(fail_on))
    assert exit_code(ALL["healthy"], fail_on) == 0


@pytest.mark.parametrize("name", ["make_setup", "as_record", "as_mapping", "with_optimizer"])
def test_the_forms_of_a_setup(project, name):
    setup = setup_from(f"my_project.train:{name}")
    assert isinstance(setup, TrainingSetup)
    assert setup.loss(setup.params, setup.batch).shape == ()
    assert (setup.optimizer is not None) is (name in ("as_record", "with_optimizer"))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("train", "expected module:factory, as in train:make_setup, got 'train'"),
        (":f", "expected module:factory"),
        ("my_project/train.py:make_setup", "is a file; name the module, my_project.train"),
        ("no_such_module:f", "there is no module 'no_such_module' in"),
        ("my_project.nothing:f", "there is no module 'my_project.nothing'"),
        ("imports_missing:f", "imports_missing imports 'no_such_library', which is not installed"),
        ("does_not_parse:f", "importing does_not_parse raised SyntaxError"),
        ("is_empty:f", "the module 'is_empty' has no 'f'; it has no functions"),
        ("my_project.train:make", "has no 'make'; it has make_setup, loss, Factories"),
        ("my_project.train:number", "number is a int and cannot be called; a factory takes no"),
        ("my_project.train:raises", "raised OSError: no data"),
        ("my_project.train:needs", "raised TypeError: needs.. missing 1 required"),
    ],
)
def test_what_cannot_be_found_or_called(project, target, message):
    with pytest.raises(FactoryError, match=message):
        setup_from(target)


def loss(params, batch):
    return jnp.sum(params) + jnp.sum(batch)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "f returned a NoneType; a factory takes no arguments and returns a TrainingSetup"),
        ((loss, 1.0), "f returned a tuple of 2; "),
        ({"loss": loss, "params": 1.0}, "f returned no 'batch'; "),
        (
            {"loss": loss, "parameters": 1.0},
            "the field 'parameters', which a TrainingSetup has not",
        ),
        ((3, 1.0, 1.0), r"f: loss must be a function of \(params, batch\), got int"),
        ({"loss": loss, "params": 1, "batch": 1, "model": 3}, "model must be a function of"),
        ((loss, 1.0, 1.0, "adam"), "optimizer must be an optax transformation, .* got str"),
        (TrainingSetup(None, 1.0, 1.0), "loss must be a function"),  # pyright: ignore
    ],
)
def test_wrong_returns_are_told_by_field(returned, message):
    with pytest.raises(FactoryError, match=message):
        as_setup(returned, "f")


def test_optax_transformations_are_let_through():
    optimizer = optax.chain(optax.clip(1.0), optax.sgd(0.1))
    assert as_setup((loss, 1.0, 1.0, optimizer), "f").optimizer is optimizer


@pytest.mark.parametrize(
    ("arguments", "error", "has_traceback"),
    [
        ("my_project.train:raises", "raised OSError: no data", True),
        ("my_project.train:vector", "cannot be diagnosed: ValueError: the loss must", False),
        ("my_project.train:breaks_in_the_loss", "cannot be diagnosed: KeyError", True),
        ("my_project.train:make_setup --max-bytes much", "--max-bytes must be a size", False),
        ("my_project.train:make_setup --html no/page.html", "there is no folder no", False),
    ],
)
def test_requests_that_cannot_be_met(project, capsys, arguments, error, has_traceback):
    assert main(["diagnose", *arguments.split()]) == 2
    captured = capsys.readouterr()
    assert error in captured.err.splitlines()[-1]
    assert ("Traceback" in captured.err) is has_traceback
    assert captured.out == ""


@pytest.mark.parametrize("arguments", [[], ["diagnose"], ["diagnose", "a:b", "--fail-on", "x"]])
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "diagnose" in "".join(capsys.readouterr())


def test_help_says_the_contract(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["diagnose", "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", "").split())
    for part in ("MODULE:FACTORY", "(loss, params, batch, optimizer)", "Exit codes", "--fail-on"):
        assert part in text


@pytest.mark.parametrize(
    ("text", "count"),
    [("123", 123), ("2G", 2**31), ("1.5k", 1536), ("3MB", 3 * 2**20), ("1GiB", 2**30)],
)
def test_sizes(text, count):
    assert num_bytes(text) == count


@pytest.mark.parametrize("text", ["", "G", "-1", "0", "inf", "nan", "1Q"])
def test_what_is_no_size(text):
    with pytest.raises(FactoryError, match="--max-bytes must be a size"):
        num_bytes(text)


def test_a_terminal_gets_colours_and_a_pipe_plain_text(capsys, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)
    show(ALL["sick"])
    assert capsys.readouterr().out == f"{ALL['sick']}\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    show(ALL["sick"])
    assert "╭─" in capsys.readouterr().out


def test_without_its_extra_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "pfn_optax.diagnosis.command")
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert entry.main() == 2
    assert "needs tyro: pip install 'pfn_optax[diagnosis]'" in capsys.readouterr().err


def test_without_rich_a_terminal_gets_plain_text(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setenv("FORCE_COLOR", "1")
    show(ALL["sick"])
    assert capsys.readouterr().out == f"{ALL['sick']}\n"


def test_it_runs_as_a_module(project):
    command = [sys.executable, "-m", "pfn_optax", "diagnose", "no_such_module:f"]
    environment = {**os.environ, "PYTHONPATH": str(Path(pfn_optax.__file__).parent.parent)}
    found = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert found.returncode == 2
    assert found.stderr.startswith("error: there is no module 'no_such_module'")
