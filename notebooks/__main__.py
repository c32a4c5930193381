"""Writes every notebook from the script beside it, and the badge into both.

    python -m notebooks

A badge opens its notebook on Colab straight from the project's repository on GitHub, which
`[project.urls]` of pyproject.toml names as `Repository`. As long as it names none, badges lead to
Colab's front page, where a notebook can be uploaded.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jupytext
import nbformat

FOLDER = Path(__file__).parent
COLAB = "https://colab.research.google.com"
BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)")
_GITHUB = re.compile(r"https://github\.com/(?P<owner>[\w.-]+)/(?P<name>[\w.-]+?)(?:\.git)?/?")


def scripts() -> list[Path]:
    """Returns the scripts that are notebooks, by their jupytext header."""
    return [path for path in sorted(FOLDER.glob("*.py")) if path.read_text().startswith("# ---\n")]


def project() -> dict[str, Any]:
    """Reads the `project` table of pyproject.toml."""
    return tomllib.loads((FOLDER.parent / "pyproject.toml").read_text("utf-8"))["project"]


def badge(name: str, urls: Mapping[str, str]) -> str:
    """Formats the badge of a notebook.

    Args:
        name: of the notebook, without suffix.
        urls: the `urls` of the project.

    Returns:
        Markdown.

    Raises:
        ValueError: if the project's repository is not one on GitHub, which is where Colab reads.

    Example:
        >>> badge("tour", {})[:20]
        '[![Open in Colab](ht'
    """
    target = f"{COLAB}/"
    if repository := urls.get("Repository"):
        found = _GITHUB.fullmatch(repository)
        if not found:
            raise ValueError(
                "project.urls.Repository must be https://github.com/OWNER/NAME, for Colab opens "
                f"notebooks from there; got {repository!r}."
            )
        target = f"{COLAB}/github/{found['owner']}/{found['name']}/blob/main/notebooks/{name}.ipynb"
    return f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({target})"


def notebook_of(script: Path) -> nbformat.NotebookNode:
    """Reads a script as a notebook, with names of cells that stay the same from time to time."""
    notebook = jupytext.read(script)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"{script.stem}-{number}"
    return notebook


def main() -> None:
    """Rewrites what is out of date."""
    urls = project().get("urls", {})
    for script in scripts():
        script.write_text(BADGE.sub(badge(script.stem, urls), script.read_text("utf-8")), "utf-8")
        nbformat.write(notebook_of(script), script.with_suffix(".ipynb"))


if __name__ == "__main__":
    main()
