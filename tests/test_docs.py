"""Everything that is shown is executed: docstrings, README, docs."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import jax
import pytest

import experiments
import pfn_optax
from tests.shown import BLOCK

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
# Translations show the code of their originals, which test_site.py compares.
ORIGINALS = [page for page in PAGES if page.parent != ROOT / "docs/zh"]


def modules():
    for package in (pfn_optax, experiments):
        yield package.__name__
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                yield found.name


@pytest.mark.parametrize("name", list(modules()))
def test_docstring_examples(name):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
    results = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert results.failed == 0


@pytest.mark.parametrize("name", pfn_optax.__all__)
def test_every_public_function_shows_an_example(name):
    thing = getattr(pfn_optax, name)
    assert thing.__doc__
    if callable(thing) and not isinstance(thing, type):
        assert ">>> " in thing.__doc__


@pytest.mark.parametrize("page", ORIGINALS, ids=lambda page: page.name)
def test_python_blocks_of_the_pages_run(page, capsys):
    """Blocks of one page share their names; a `text` block after one is what it prints."""
    blocks = BLOCK.findall(page.read_text())
    names: dict = {}
    for index, (language, code) in enumerate(blocks):
        if language == "python":
            exec(compile(code, f"{page.name}, block {index}", "exec"), names)
            printed = capsys.readouterr().out
            if index + 1 < len(blocks) and blocks[index + 1][0] == "text":
                assert_prints(printed, blocks[index + 1][1])


def assert_prints(printed: str, shown: str):
    """Words must match; numbers roughly, since jax versions draw and round differently."""
    for left, right in zip(printed.split(), shown.split(), strict=True):
        try:
            assert float(left) == pytest.approx(float(right), rel=0.1)
        except ValueError:
            assert left == right


def test_pages_link_to_files_that_exist():
    for page in [*PAGES, *ROOT.glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_importing_the_package_needs_its_core_dependencies_alone():
    import subprocess
    import sys

    heavy = (
        "flax matplotlib tensorboardX tensorflow_datasets sklearn scipy.sparse tqdm orbax rich tyro"
    )
    code = f"import sys, pfn_optax; print([m for m in {heavy.split()!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    assert jax.__version__


def test_changelog_and_citation_are_of_this_version():
    version = pfn_optax.__version__
    heading = re.search(
        r"^## ([\d.]+) \((.*?)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert heading
    assert heading[1] == version
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {version}\n" in citation
    assert f'\ndate-released: "{heading[2]}"\n' in citation
