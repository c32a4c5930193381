import re

from pfn_optax.diagnosis import Cause
from pfn_optax.diagnosis.show.layers import COLUMNS
from tests.diagnosis.guide import GUIDE, THRESHOLDS, thresholds_table

TEXT = GUIDE.read_text("utf-8")


def first_cells(heading):
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `?(.*?)`? \|", section, re.MULTILINE)


def test_the_guide_lists_every_cause():
    assert first_cells("What can be wrong")[2:] == [cause.value for cause in Cause]


def test_the_guide_says_what_every_column_is():
    assert first_cells("Reading it")[2:] == [column.head for column in COLUMNS]


def test_the_guide_lists_every_threshold():
    assert THRESHOLDS.search(TEXT)[2] == thresholds_table(), "python -m tests.diagnosis.guide"
