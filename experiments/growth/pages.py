"""Tables of committed results, put between marks of docs/growth_experiments.md."""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "growth_experiments.md"
RESULTS = ROOT / "experiments" / "results"


def results(name: str) -> Any:
    """What a command has written."""
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))


def between_marks(name: str, text: str, page: str) -> str:
    """A page with a text between `<!-- growth: NAME -->` and `<!-- end -->`."""
    pattern = re.compile(rf"(<!-- growth: {name} -->\n)(.*?)(<!-- end -->)", re.DOTALL)
    return pattern.sub(lambda found: found[1] + text + "\n" + found[3], page)


def marked(name: str, text: str) -> None:
    """Writes a text between its marks."""
    PAGE.write_text(between_marks(name, text, PAGE.read_text("utf-8")), "utf-8")
