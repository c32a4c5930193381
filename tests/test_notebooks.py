"""Every notebook is the same as the script beside it, and runs, with few steps."""

import os
from pathlib import Path

import jupytext
import nbclient
import nbformat
import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
SCRIPTS = sorted(FOLDER.glob("*.py"))


def read(script):
    return nbformat.read(script.with_suffix(".ipynb"), as_version=4)


def test_each_notebook_has_its_script():
    assert SCRIPTS
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_notebook_and_script_are_the_same(script):
    """`jupytext --to ipynb notebooks/NAME.py` writes the one from the other."""
    cells = [(cell.cell_type, cell.source) for cell in jupytext.read(script).cells]
    notebook = read(script)
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == cells
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not committed"


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_notebook_runs(script, monkeypatch):
    monkeypatch.setenv("PFN_OPTAX_QUICK", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FOLDER.parent)]))
    nbclient.NotebookClient(read(script), timeout=240, kernel_name="python3").execute()
