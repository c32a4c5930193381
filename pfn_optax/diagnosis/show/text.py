"""A diagnosis as plain text."""

from collections.abc import Iterator, Sequence

from pfn_optax.diagnosis.diagnosis import Diagnosis
from pfn_optax.diagnosis.finding import Evidence, Finding
from pfn_optax.diagnosis.show.layers import Column, Row, by_urgency, measured, rows_of
from pfn_optax.diagnosis.show.words import (
    justified,
    number,
    origins,
    printable,
    reason,
    severity,
    shortened,
    size,
    title,
    verdict,
    where,
    width,
    wrapped,
)

_COLUMNS = 100
_INDENT = " " * 3
_LABEL = len("follows  ")


def as_text(diagnosis: Diagnosis) -> str:
    """Returns the diagnosis in lines of at most 100 columns.

    What takes time is left out, so that the same measurements give the same text.
    """
    return "\n".join(line.rstrip() for line in _lines(diagnosis))


def _lines(diagnosis: Diagnosis) -> Iterator[str]:
    yield from wrapped(f"{verdict(diagnosis)}. {size(diagnosis)}.", _COLUMNS)
    for index, finding in enumerate(diagnosis.findings, 1):
        yield ""
        yield from _finding(index, finding, diagnosis.findings)
    if diagnosis.layers:
        yield ""
        yield from _layers(diagnosis)
    if diagnosis.measures:
        yield ""
        # A name and its number stay in one line.
        gap = "\N{NO-BREAK SPACE}"
        measures = (f"{printable(k)}{gap}{number(v)}" for k, v in diagnosis.measures.items())
        for line in _labelled("whole", "   ".join(measures), indent=""):
            yield line.replace(gap, " ")
    if not_run := diagnosis.skipped + diagnosis.inapplicable:
        yield ""
        for check in not_run:
            text = f"{printable(check.name)}: {reason(check)}"
            yield from _labelled("skipped", text, indent="")


def _finding(index: int, finding: Finding, findings: Sequence[Finding]) -> Iterator[str]:
    head = f"{index}. {severity(finding).upper()}: {title(finding.cause)}"
    yield head
    if finding.layers:
        yield from _labelled("where", where(finding))
    yield from _labelled("what", printable(finding.summary))
    if origin := origins(finding, findings):
        yield from _labelled("follows", f"from {origin}: mend that first")
    for line in _evidence(finding.evidence):
        yield from _labelled("measured", line)
    yield from _labelled("try", printable(finding.remedy))


def _evidence(evidence: Sequence[Evidence]) -> Iterator[str]:
    """The numbers below each other, unless a name is too long for that."""
    names = [printable(one.name) for one in evidence]
    values = [number(one.value) for one in evidence]
    room = min(60, max(map(width, names), default=0))
    tail = max(map(width, values), default=0)
    for one, name, value in zip(evidence, names, values, strict=True):
        text = f"{justified(name, room, is_left=True)}  {justified(value, tail, is_left=False)}"
        unit = f" {printable(one.unit)}" if one.unit else ""
        yield text + unit + ("" if one.limit is None else f"  limit {number(one.limit)}")


def _labelled(label: str, text: str, indent: str = _INDENT) -> Iterator[str]:
    room = _COLUMNS - len(indent) - _LABEL
    for index, line in enumerate(wrapped(text, room)):
        yield indent + ("" if index else label).ljust(_LABEL) + line


def _layers(diagnosis: Diagnosis) -> Iterator[str]:
    rows = rows_of(diagnosis)
    columns = fitting(diagnosis, rows, _COLUMNS)
    table = [("layer", *(column.head for column in columns), "finding")]
    table += [
        (row.name, *map(row.cell, columns), ", ".join(map(str, row.findings))) for row in rows
    ]
    if not any(line[-1] for line in table[1:]):
        table = [line[:-1] for line in table]
    widths = [max(map(width, column)) for column in zip(*table, strict=True)]
    widths[0] = min(widths[0], _COLUMNS - sum(widths[1:]) - 2 * (len(widths) - 1))
    for line in table:
        cells = [shortened(line[0], widths[0]), *line[1:]]
        yield "  ".join(
            justified(cell, columns, is_left=index == 0)
            for index, (cell, columns) in enumerate(zip(cells, widths, strict=True))
        )
    if any(len(row.layers) > 1 for row in rows):
        yield "Several layers in a line: their median, and how many parameters they have in all."


def fitting(diagnosis: Diagnosis, rows: Sequence[Row], room: int) -> list[Column]:
    """The columns that there is room for, beside names of up to a third of it and findings."""
    room -= min(max(width(row.name) for row in rows), room // 3)
    room -= 2 + max(len("finding"), *(len(", ".join(map(str, row.findings))) for row in rows))
    chosen = []
    for column in by_urgency(diagnosis):
        needed = 2 + max(len(column.head), *(len(row.cell(column)) for row in rows))
        if needed > room:
            break
        room -= needed
        chosen.append(column)
    return [column for column in measured(diagnosis) if column in chosen]
