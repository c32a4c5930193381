"""The tables of the hourglass in docs/growth_experiments.md, from the committed results.

`python -m experiments.growth.hourglass_page` writes them.
"""

import json
import re
from pathlib import Path

from experiments.growth.hourglass_tables import named_text, text

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "growth_experiments.md"
RESULTS = ROOT / "experiments" / "results"
MARKED = re.compile(r"(<!-- growth: (hourglass[a-z_]*) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def section(name: str, results: Path = RESULTS) -> str:
    """The tables of committed results, `grow_NAME.json`."""
    rows = json.loads((results / f"grow_{name}.json").read_text("utf-8"))["arms"]
    return f"{text(rows)}\n\n{named_text(rows)}\n"


def filled(page: str) -> str:
    """A page with the tables between their marks."""
    return MARKED.sub(lambda found: found[1] + section(found[2]) + found[4], page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text("utf-8")), "utf-8")
