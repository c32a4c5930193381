"""A diagnosis in the colours of a terminal, by the library `rich`.

Everything is put into `Text`, which reads no markup.
"""

import math
from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pfn_optax.diagnosis.diagnosis import Diagnosis
from pfn_optax.diagnosis.finding import Evidence, Finding, Severity
from pfn_optax.diagnosis.show.layers import Row, rows_of
from pfn_optax.diagnosis.show.text import fitting
from pfn_optax.diagnosis.show.words import (
    beyond,
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
)

_STYLES = {Severity.CRITICAL: "red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
_BAR = 8  # letters
_EIGHTHS = " ▏▎▍▌▋▊▉█"


class Report:
    """What `rich` prints of a diagnosis, as wide as the terminal."""

    def __init__(self, diagnosis: Diagnosis):
        """Holds the diagnosis."""
        self._diagnosis = diagnosis

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Yields the parts: verdict, findings, layers, measures, what was skipped."""
        diagnosis = self._diagnosis
        yield _head(diagnosis)
        for index, finding in enumerate(diagnosis.findings, 1):
            yield _panel(index, finding, diagnosis.findings)
        if diagnosis.layers:
            yield _table(diagnosis, options.max_width)
        if diagnosis.measures:
            yield _measures(diagnosis)
        for check in diagnosis.skipped + diagnosis.inapplicable:
            style = "yellow" if check.applies else "dim"
            text = Text.assemble(("skipped ", style), (printable(check.name), "bold"))
            yield text.append(f": {reason(check)}")


def _head(diagnosis: Diagnosis) -> Panel:
    worst = max((finding.severity for finding in diagnosis.findings), default=None)
    style = "green" if diagnosis.is_healthy or worst is None else _STYLES[worst]
    mark = "✔ " if diagnosis.is_healthy else "✖ "
    text = Text.assemble((mark + verdict(diagnosis), f"bold {style}"))
    return Panel(text.append(f"\n{size(diagnosis)}, {diagnosis.seconds:.1f} s"), border_style=style)


def _panel(index: int, finding: Finding, findings: Sequence[Finding]) -> Panel:
    style = _STYLES[finding.severity]
    heading = Text.assemble(
        (f" {index}. {severity(finding).upper()} ", f"bold {style}"),
        (title(finding.cause) + " ", "bold"),
    )
    parts: list[RenderableType] = []
    if finding.layers:
        parts.append(Text.assemble("in ", (where(finding), "bold")))
    parts.append(Text(printable(finding.summary)))
    if origin := origins(finding, findings):
        parts.append(Text(f"Follows from {origin}: mend that first.", "italic"))
    if finding.evidence:
        parts.append(_evidence(finding.evidence, style))
    parts.append(_with_code(printable(finding.remedy)))
    return Panel(Group(*parts), title=heading, title_align="left", border_style=style)


def _evidence(evidence: Sequence[Evidence], style: str) -> Table:
    table = Table.grid(padding=(0, 2))
    for _ in range(3):
        table.add_column(overflow="fold")
    for one in evidence:
        unit = f"{printable(one.unit)}  " if one.unit else ""
        limit = "" if one.limit is None else f"limit {number(one.limit)}  {beyond(one)}"
        value = Text(number(one.value), f"bold {style}", justify="right")
        table.add_row(Text(printable(one.name)), value, Text(unit + limit))
    return table


def _with_code(remedy: str) -> Text:
    """The remedy, with what stands between backticks set off."""
    text = Text.assemble(("Try: ", "bold green"))
    parts = remedy.split("`")
    if len(parts) % 2 == 0:
        return text.append(remedy)
    for index, part in enumerate(parts):
        text.append(part, "bold cyan" if index % 2 else "")
    return text


def _table(diagnosis: Diagnosis, room: int) -> Table:
    rows = rows_of(diagnosis)
    columns = fitting(diagnosis, rows, room - _BAR - 4)
    table = Table(title="Layers, from the data to the loss", title_justify="left", box=None)
    table.add_column("layer", no_wrap=True)
    for column in columns:
        table.add_column(column.head, justify="right", no_wrap=True)
        if column.field == "gradient_norm":
            table.add_column("", no_wrap=True, min_width=_BAR)
    if diagnosis.findings:
        table.add_column("finding", justify="right", no_wrap=True)
    bars = iter(_bars(rows))
    for row in rows:
        style = ""
        if row.findings:
            style = _STYLES[max(diagnosis.findings[index - 1].severity for index in row.findings)]
        bar = Text(next(bars), style or "blue")
        cells = [Text(shortened(row.name, max(12, room // 3)), style)]
        for column in columns:
            cells.append(Text(row.cell(column), style))
            if column.field == "gradient_norm":
                cells.append(bar)
        if diagnosis.findings:
            cells.append(Text(", ".join(map(str, row.findings)), style))
        table.add_row(*cells)
    if any(len(row.layers) > 1 for row in rows):
        table.caption = "several layers in a line: their median, all their parameters"
    return table


def _bars(rows: Sequence[Row]) -> Iterator[str]:
    """The gradient norms on a logarithmic scale, down to a millionth of the largest at most."""
    values = [row.value("gradient_norm") for row in rows]
    known = [value for value in values if value is not None and 0 < value < math.inf]
    top = math.log10(max(known, default=1.0))
    bottom = max(top - 6, math.floor(math.log10(min(known, default=1.0)) - 0.5))
    for value in values:
        if value is None or not 0 < value < math.inf:
            yield "" if value is None or value == 0 else "!" * _BAR
            continue
        share = (math.log10(value) - bottom) / max(top - bottom, 1e-9)
        eighths = max(1, round(8 * _BAR * min(1, share)))
        yield "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _measures(diagnosis: Diagnosis) -> Text:
    text = Text()
    for name, value in diagnosis.measures.items():
        text.append(f"{printable(name)} ", "dim").append(f"{number(value)}   ", "bold")
    return text
