"""Blocks as the lines of a table: one each, or one for many that are outside the cut."""

import html
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple


class CutRow(NamedTuple):
    """One block.

    Attributes:
        layer: path of the layer.
        block: number of the block within its layer.
        units: output units of the block, `"16:32"`; of a sub-matrix also the units in.
        norm: EMA of its raw gradient norm.
        capacity: its capacity at the last diagnosis.
        in_cut: whether it is a bottleneck.
        persistence: consecutive earlier diagnoses in the cut.
        multiplier: what its updates are multiplied by.
    """

    layer: str
    block: int
    units: str
    norm: float
    capacity: float
    in_cut: bool
    persistence: int
    multiplier: float


_HEADER = ("layer", "block", "units", "norm", "capacity", "cut", "persistence", "multiplier")
_WORDS = (0, 5)  # columns that go to the left; numbers go to the right
_MOST_LINES = 40
_TO_LEFT, _TO_RIGHT = (f' style="text-align:{side}"' for side in ("left", "right"))


class Line(NamedTuple):
    """One line of the table: one block, or several that are all in the cut, or all outside."""

    cells: tuple[str, ...]
    in_cut: bool


def line_of(row: CutRow) -> Line:
    """Returns the line of one block."""
    cells = (
        row.layer,
        str(row.block),
        row.units,
        f"{row.norm:.3g}",
        f"{row.capacity:.3g}",
        "CUT" if row.in_cut else "",
        str(row.persistence) if row.in_cut else "",
        f"{row.multiplier:.2f}",
    )
    return Line(cells, row.in_cut)


def _folded_line(name: str, rows: Sequence[CutRow]) -> Line:
    in_cut = rows[0].in_cut
    cells = (
        name,
        f"{len(rows)} blocks",
        "",
        f"{math.hypot(*(row.norm for row in rows)):.3g}",
        f"{sum(row.capacity for row in rows):.3g}",
        "CUT" if in_cut else "",
        str(max(row.persistence for row in rows)) if in_cut else "",
        f"{max(row.multiplier for row in rows):.2f}",
    )
    return Line(cells, in_cut)


def by_layer(rows: Iterable[CutRow]) -> Iterator[tuple[str, list[CutRow]]]:
    """Yields each layer with its rows."""
    for name, group in itertools.groupby(rows, key=lambda row: row.layer):
        yield name, list(group)


def fold(rows: Sequence[CutRow]) -> list[Line]:
    """Folds layers, then ever larger modules, until few enough lines are left."""
    if len(rows) <= _MOST_LINES:
        return [line_of(row) for row in rows]
    deepest = max(row.layer.count("/") for row in rows) + 1
    lines: list[Line] = []
    for length in range(deepest, -1, -1):
        lines = [line for run in _runs(rows, length) for line in _lines_of(run)]
        if len(lines) <= _MOST_LINES:
            break
    return lines


def _runs(rows: Sequence[CutRow], length: int) -> Iterator[list[tuple[str, list[CutRow]]]]:
    """Neighbouring layers outside the cut that share their first names; the others alone."""
    cut = {row.layer for row in rows if row.in_cut}

    def key(layer: tuple[str, list[CutRow]]) -> tuple[str, ...]:
        path = tuple(layer[0].split("/"))
        return ("in the cut", *path) if layer[0] in cut else ("", *path[:length])

    for _, run in itertools.groupby(by_layer(rows), key=key):
        yield list(run)


def _lines_of(run: list[tuple[str, list[CutRow]]]) -> Iterator[Line]:
    """One line for a run of layers outside the cut; for a layer partly in it, one per cut block."""
    (first, rows), last = run[0], run[-1][0]
    others = [row for row in rows if not row.in_cut]
    if len(run) > 1:
        every = [row for _, rows in run for row in rows]
        yield _folded_line(f"{first} ... {without_shared(last, first)}, {len(run)} layers", every)
    elif len(rows) == 1:
        yield line_of(rows[0])
    elif len(others) in (0, len(rows)):
        yield _folded_line(first, rows)
    else:
        yield from (line_of(row) for row in rows if row.in_cut)
        yield _folded_line(f"{first}, the others", others)


def without_shared(name: str, other: str) -> str:
    """The name without the modules that it shares with another."""
    mine, theirs = name.split("/"), other.split("/")
    pairs = zip(mine[:-1], theirs[:-1], strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return "/".join(mine[shared:])


def listed(names: Sequence[str], most: int = 8) -> str:
    """Joins names, the first few of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def aligned_lines(lines: Iterable[Line]) -> Iterator[str]:
    """Yields header and lines as text, words to the left and numbers to the right."""
    cells = [_HEADER, *(line.cells for line in lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        yield "  ".join(
            cell.ljust(width) if column in _WORDS else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()


def html_table(lines: Iterable[Line]) -> str:
    """Returns header and lines as an HTML table; names are escaped, they come from the model."""

    def row(cells: Iterable[str], tag: str, style: str = "") -> str:
        aligned = (
            f"<{tag}{_TO_LEFT if column in _WORDS else ''}>{html.escape(cell)}</{tag}>"
            for column, cell in enumerate(cells)
        )
        return f"<tr{style}>{''.join(aligned)}</tr>"

    # A colour that can be read on light and on dark ground.
    marked = ' style="color:#e0294a;font-weight:bold"'
    body = (row(line.cells, "td", marked if line.in_cut else "") for line in lines)
    head = f"<thead>{row(_HEADER, 'th')}</thead>"
    return f"<table{_TO_RIGHT}>{head}<tbody>{''.join(body)}</tbody></table>"
