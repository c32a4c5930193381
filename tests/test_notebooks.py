"""Notebooks and their scripts are the same, and start alike. (nbmake runs them.)"""

import re
import sys
from importlib.metadata import version
from types import ModuleType

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell

from notebooks.__main__ import BADGE, FOLDER, badge, notebook_of, project, scripts

SCRIPTS = scripts()
PROJECT = project()
INSTALL = re.compile(
    r"""import sys

if "google.colab" in sys.modules:
    from importlib.metadata import version

    JAX = version\("jax"\)  # the one for this machine's GPU or TPU: it stays
    %pip install --quiet "pfn_optax\[(?P<extras>[\w,]+)\]" "jax=={JAX}"(?: [\w-]+)*"""
)
every_notebook = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


def cells(script):
    return nbformat.read(script.with_suffix(".ipynb"), as_version=4).cells


def test_each_notebook_has_its_script():
    assert SCRIPTS
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in SCRIPTS}


@every_notebook
def test_notebook_and_script_are_the_same(script):
    """`python -m notebooks` writes the one from the other."""
    ours = [(cell.id, cell.cell_type, cell.source) for cell in notebook_of(script).cells]
    assert [(cell.id, cell.cell_type, cell.source) for cell in cells(script)] == ours
    assert not any(cell.get("outputs") for cell in cells(script)), "outputs are not committed"


@every_notebook
def test_begins_with_a_title_and_the_badge(script):
    title, own, text = cells(script)[0].source.split("\n\n", 2)
    assert re.fullmatch("# .+", title)
    assert own == badge(script.stem, PROJECT.get("urls", {})), "run python -m notebooks"
    assert text
    assert len(BADGE.findall(script.read_text())) == 1


@every_notebook
def test_first_cell_installs_what_the_project_declares(script):
    found = INSTALL.fullmatch(cells(script)[1].source)
    assert found, cells(script)[1].source
    assert set(found["extras"].split(",")) <= set(PROJECT["optional-dependencies"])


@every_notebook
def test_is_in_the_lists(script):
    link = f"({script.stem}.ipynb)"
    assert link in (FOLDER / "README.md").read_text()
    assert script.stem == "tour" or link in (FOLDER / "tour.py").read_text()


@pytest.mark.parametrize("page", [FOLDER / "README.md", *SCRIPTS], ids=lambda path: path.stem)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        assert "://" in target or (FOLDER / target).exists(), target


def test_installs_on_colab_alone_and_keeps_jax(monkeypatch):
    shell, asked = InteractiveShell(), []
    shell.register_magic_function(asked.append, magic_name="pip")
    source = cells(SCRIPTS[0])[1].source
    shell.run_cell(source).raise_error()
    assert asked == []
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    shell.run_cell(source).raise_error()
    (arguments,) = asked
    assert f'"jax=={version("jax")}"' in arguments
    assert "-U" not in arguments
    assert "--upgrade" not in arguments


@pytest.mark.parametrize(
    "repository", ["https://github.com/owner/name", "https://github.com/owner/name.git"]
)
def test_badges_lead_to_the_repository(repository):
    link = "https://colab.research.google.com/github/owner/name/blob/main/notebooks/tour.ipynb"
    assert badge("tour", {"Repository": repository}).endswith(f"]({link})")


def test_without_a_repository_badges_lead_to_the_front_page():
    assert badge("tour", {}).endswith("](https://colab.research.google.com/)")


def test_colab_reads_from_github_alone():
    with pytest.raises(ValueError, match="must be https://github"):
        badge("tour", {"Repository": "https://gitlab.com/owner/name"})
