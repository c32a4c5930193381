"""What docs/growth_experiments.md says of where units go, from the committed results.

`python -m experiments.growth.widths_tables` writes it.
"""

from experiments.growth import allocation_summary, reallocating_summary
from experiments.growth.pages import between_marks, marked, results

TEXTS = {
    "allocation": ("grow_allocation", allocation_summary.text),
    "reallocation": ("grow_reallocate", reallocating_summary.text),
}


def tables() -> dict[str, str]:
    """The tables of the committed results, by the name of their marks."""
    return {name: text(results(file)["rows"]).rstrip() for name, (file, text) in TEXTS.items()}


def rewritten(page: str) -> str:
    """The page with these tables between their marks; what is between other marks stays."""
    for name, table in tables().items():
        page = between_marks(name, table, page)
    return page


if __name__ == "__main__":
    for name, table in tables().items():
        marked(name, table)
