"""What stands on what: the picture in docs/design.md is that of the imports."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pfn_optax"
_IGNORED = {"__init__", "__main__"}  # the public face stands on everything


def imported(path):
    """The modules of the package that a file imports: wherever it does, as pfn_optax.a.b."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pfn_optax"):
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("pfn_optax."))


def stands_on():
    """For each package and module at the top, those that it imports."""
    edges = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] not in _IGNORED:
            edges.setdefault(parts[0], set()).update(name.split(".")[1] for name in imported(path))
    return {name: found - {name} for name, found in edges.items()}


@pytest.fixture(scope="module")
def levels():
    """The lines of the picture, the lowest first, but for what is no part of the package."""
    page = (ROOT / "docs/design.md").read_text("utf-8")
    picture = re.search(r"```text\n(.*?)```", page, re.DOTALL)[1]
    lines = [re.split(r"\s{3,}", line)[0].split() for line in picture.splitlines()]
    lines = [line for line in lines if line not in ([], ["|"])]
    outside, *inside = lines
    assert all((ROOT / name).is_dir() for name in outside)
    return inside[::-1]


def test_the_picture_has_every_package_once(levels):
    names = [name for line in levels for name in line]
    assert sorted(names) == sorted(stands_on())


def test_imports_go_down(levels):
    height = {name: number for number, line in enumerate(levels) for name in line}
    upwards = {
        f"{name} imports {other}"
        for name, found in stands_on().items()
        for other in found
        if height.get(other, len(levels)) >= height[name]  # the public face is above all
    }
    assert not upwards
