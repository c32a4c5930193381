"""What docs/diagnosis.md says of the thresholds: `python -m tests.diagnosis.guide` writes it."""

import dataclasses
import inspect
import re
from pathlib import Path

from pfn_optax.diagnosis import Thresholds

GUIDE = Path(__file__).parents[2] / "docs" / "diagnosis.md"
THRESHOLDS = re.compile(r"(<!-- thresholds: [^\n]* -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def thresholds_table():
    """Each threshold, its value, and what its docstring says of it."""
    about = inspect.getdoc(Thresholds).partition("Attributes:\n")[2]
    entries = re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\w|\Z)", about, re.MULTILINE | re.DOTALL)
    said = {name: " ".join(text.split()) for name, text in entries}
    lines = ["| threshold | value | what it is, and where it comes from |", "| --- | --- | --- |"]
    lines += [
        f"| `{field.name}` | {field.default:g} | {said[field.name]} |"
        for field in dataclasses.fields(Thresholds)
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = GUIDE.read_text("utf-8")
    GUIDE.write_text(THRESHOLDS.sub(lambda m: m[1] + thresholds_table() + m[3], text), "utf-8")
