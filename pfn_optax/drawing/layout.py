"""Where the strokes of the printed picture go: columns, bows, captions that do not overlap.

Lengths are in rows, the usual distance between two nodes; y grows downwards, away from the loss.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pfn_optax.drawing.picture import Picture

_ROWS_PER_COLUMN = 16
_LANE = 2.4
_FARTHEST_LANE = 7.5
_CAPTION = 0.5  # height of a caption
_CAPTION_WIDTH = 3.8
_MARGIN = 1.4  # for the names of modules; each module inside another takes _NESTED more
_NESTED = 0.45

Point = tuple[float, float]


class Caption(NamedTuple):
    """What is written beside the bands of one layer.

    Attributes:
        bands: indices of the bands it speaks of, side by side.
        at: where the text begins, or ends, if it is on the left.
        is_left: whether it stands to the left of the network.
        has_leader: whether a line has to lead to it.
    """

    bands: tuple[int, ...]
    at: Point
    is_left: bool
    has_leader: bool


class Stroke(NamedTuple):
    """The way of one band: a quadratic curve from start to end, bent towards the corner.

    Attributes:
        start: the end at the tail.
        corner: the control point.
        end: the end at the head.
        mark: a point on the curve, for the mark of the cut and the caption.
        share: 1 / number of bands of its layer side by side.
    """

    start: Point
    corner: Point
    end: Point
    mark: Point
    share: float


class Area(NamedTuple):
    """The area of an open module within one column."""

    module: int
    left: float
    right: float
    top: float
    bottom: float


@dataclass(frozen=True)
class Layout:
    """Everything with its place.

    Attributes:
        strokes: by index of the band.
        captions: one for each layer between two rows.
        dots: (node, place); a node at the foot of a column stands at the head of the next as well.
        areas: areas of modules, the outermost first.
        width: width of it all.
        height: height of it all.
    """

    strokes: dict[int, Stroke]
    captions: tuple[Caption, ...]
    dots: tuple[tuple[str, Point], ...]
    areas: tuple[Area, ...]
    width: float
    height: float


def layout_of(picture: Picture) -> Layout:
    """Places a picture: rows downwards, continued in further columns where it is deep."""
    bows, beside = _bows(picture), _beside(picture)
    marks = {index: 0.25 if _is_crowded(picture, bows, beside[index]) else 0.5 for index in bows}
    page = _page(picture, bows, marks, beside)
    strokes = {
        index: _stroke(page, index, bow, marks[index], 1 / len(beside[index]))
        for index, bow in bows.items()
    }
    captions = []
    for column in range(len(page.columns)):
        here = {beside[index] for index in bows if page.column_of(index) == column}
        for is_left, edge in zip((True, False), page.edges(column), strict=True):
            side = [bands for bands in here if (bows[bands[0]] > 0) == is_left]
            captions += _captions(side, strokes, edge, is_left)
    return Layout(
        strokes=strokes,
        captions=tuple(captions),
        dots=tuple(
            (node, page.place(node, column))
            for column, (start, stop) in enumerate(page.columns)
            for node, row in picture.rows.items()
            if start <= row <= stop
        ),
        areas=tuple(_areas(page)),
        width=page.width * len(page.columns),
        height=float(max(page.tops[stop] - page.tops[start] for start, stop in page.columns)),
    )


def spread(wanted: list[float], gap: float) -> list[float]:
    """Moves sorted positions as little as possible (least squares) so that a gap lies between them.

    Args:
        wanted: the positions, ascending.
        gap: the least distance.

    Returns:
        The new positions.

    Example:
        >>> from pfn_optax.drawing.layout import spread
        >>> spread([0.0, 5.0, 5.0], 1.0)
        [0.0, 4.5, 5.5]
    """
    clusters: list[tuple[float, int]] = []  # (mean of position - gap x rank, number)
    for rank, position in enumerate(wanted):
        mean, number = position - gap * rank, 1
        while clusters and clusters[-1][0] > mean:
            other, more = clusters.pop()
            mean, number = (mean * number + other * more) / (number + more), number + more
        clusters.append((mean, number))
    means = [mean for mean, number in clusters for _ in range(number)]
    return [mean + gap * rank for rank, mean in enumerate(means)]


def _rows_of(picture: Picture, index: int) -> tuple[int, int]:
    band, rows = picture.bands[index], picture.rows
    return rows[band.tail], rows[band.head]


def _columns(picture: Picture) -> list[tuple[int, int]]:
    """Splits the rows into columns at rows that one node holds alone and no band passes by."""
    held = Counter(picture.rows.values())
    last = max(held)
    is_passed = np.zeros(last + 1, bool)
    for index in picture.shown:
        low, high = sorted(_rows_of(picture, index))
        is_passed[low + 1 : high] = True
    splits = [row for row in range(1, last) if not is_passed[row] and held[row] == 1]
    columns, start = [], 0
    num_columns = -(-last // _ROWS_PER_COLUMN)
    while num_columns > 1 and last - start > _ROWS_PER_COLUMN:
        wanted = start + -(-(last - start) // (num_columns - len(columns)))
        ahead = [row for row in splits if start + 2 <= row <= start + _ROWS_PER_COLUMN]
        if not ahead or len(columns) == num_columns - 1:
            break
        split = min(ahead, key=lambda row: abs(row - wanted))
        columns.append((start, split))
        start = split
    return [*columns, (start, last)]


def _lanes(picture: Picture) -> dict[str, float]:
    """The lanes as distances; rows of many nodes stand closer together."""
    farthest = defaultdict(float)
    for node, row in picture.rows.items():
        farthest[row] = max(farthest[row], abs(picture.lanes[node]))
    return {
        node: picture.lanes[node] * min(_LANE, _FARTHEST_LANE / max(farthest[row], 1.0))
        for node, row in picture.rows.items()
    }


def _bows(picture: Picture) -> dict[int, float]:
    """How far each band bows out: none for one between neighbours, more for twins and skips.

    Bands in the lanes on the right bow to the right (-), all others to the left (+).
    """
    twins: Counter[tuple[str, str]] = Counter()
    bows = {}
    for index in picture.shown:
        band = picture.bands[index]
        tail, head = _rows_of(picture, index)
        span, twin = abs(head - tail), twins[band.tail, band.head]
        twins[band.tail, band.head] += 1
        side = -1 if picture.lanes[band.tail] + picture.lanes[band.head] > 0 else 1
        far = 0.55 + 0.18 * span + 0.45 * twin
        bows[index] = 0.0 if span == 1 and not twin else side * far
    return bows


def _is_crowded(picture: Picture, bows: dict[int, float], bands: tuple[int, ...]) -> bool:
    """Whether bands bow out within or around others: then their middles are side by side."""
    own = _rows_of(picture, bands[0])
    others = (_rows_of(picture, index) for index in bows if bows[index] and index not in bands)
    return bool(bows[bands[0]]) and any(max(own[0], a) < min(own[1], b) for a, b in others)


def _beside(picture: Picture) -> dict[int, tuple[int, ...]]:
    """For each band, the bands of the same layer between the same rows, itself among them."""
    groups = defaultdict(list)
    for index in picture.shown:
        groups[picture.bands[index].name, _rows_of(picture, index)].append(index)
    return {index: tuple(group) for group in groups.values() for index in group}


@dataclass(frozen=True)
class _Page:
    """Where rows, lanes and columns are; `left` is from the edge of a column to its middle."""

    picture: Picture
    columns: list[tuple[int, int]]
    lanes: dict[str, float]
    tops: np.ndarray
    left: float
    right: float

    @property
    def width(self) -> float:
        return self.left + self.right + _CAPTION_WIDTH

    def place(self, node: str, column: int) -> Point:
        y = self.tops[self.picture.rows[node]] - self.tops[self.columns[column][0]]
        return column * self.width + self.left + self.lanes[node], float(y)

    def column_of(self, index: int) -> int:
        first = min(_rows_of(self.picture, index))
        inside = (n for n, (start, stop) in enumerate(self.columns) if start <= first < stop)
        return next(inside, len(self.columns) - 1)

    def edges(self, column: int) -> Point:
        """How far left the nodes of a column go, and how far right anything in it."""
        middle = column * self.width + self.left
        return middle - max(self.lanes.values()), middle + self.right


def _page(picture: Picture, bows, marks, beside) -> _Page:
    lanes = _lanes(picture)
    reach = max(lanes.values())
    to_left, to_right = (max([0.0, *(sign * bow for bow in bows.values())]) for sign in (1, -1))
    nesting = max((len(picture.modules_around(m)) for m in picture.open_modules), default=0)
    return _Page(
        picture=picture,
        columns=_columns(picture),
        lanes=lanes,
        tops=_tops(picture, bows, marks, beside),
        left=reach + _MARGIN + _NESTED * nesting + (to_left + 1.5 if to_left else 0.0),
        right=reach + to_right,
    )


def _tops(picture: Picture, bows, marks, beside) -> np.ndarray:
    """Where each row stands: one apart, and further where more captions have to find room."""
    captions: Counter[tuple[bool, int]] = Counter()
    for bands in set(beside.values()):
        tail, head = _rows_of(picture, bands[0])
        captions[bows[bands[0]] > 0, int(tail + marks[bands[0]] * (head - tail))] += 1
    gaps = [
        max(1.0, _CAPTION * max(captions[True, row], captions[False, row]))
        for row in range(max(picture.rows.values()))
    ]
    return np.concatenate([[0.0], np.cumsum(gaps)])


def _stroke(page: _Page, index: int, bow: float, at: float, share: float) -> Stroke:
    band, column = page.picture.bands[index], page.column_of(index)
    start, end = page.place(band.tail, column), page.place(band.head, column)
    corner = (start[0] + end[0]) / 2 - 2 * bow, (start[1] + end[1]) / 2
    if band.tail == band.head:  # a loop, which would have no length
        start, end = (start[0], start[1] - 0.3), (end[0], end[1] + 0.3)
    x, y = np.asarray([(1 - at) ** 2, 2 * at * (1 - at), at**2]) @ [start, corner, end]
    return Stroke(start, corner, end, (float(x), float(y)), share)


def _areas(page: _Page) -> Iterator[Area]:
    for module in page.picture.open_modules:
        first, last = _rows_of(page.picture, module)
        for column, (start, stop) in enumerate(page.columns):
            top, bottom = max(first, start), min(last, stop)
            if top < bottom:
                nesting = len(page.picture.modules_around(module))
                yield Area(
                    module,
                    left=column * page.width + _NESTED * nesting,
                    right=(column + 1) * page.width - 0.2,
                    top=float(page.tops[top] - page.tops[start]),
                    bottom=float(page.tops[bottom] - page.tops[start]),
                )


def _captions(
    side: list[tuple[int, ...]], strokes: dict[int, Stroke], edge: float, is_left: bool
) -> list[Caption]:
    """The captions on one side of a column, moved apart."""
    nearest = min if is_left else max
    marks = {bands: nearest(strokes[index].mark for index in bands) for bands in side}
    side = sorted(side, key=lambda bands: (marks[bands][1], -marks[bands][0], bands))
    heights = spread([marks[bands][1] for bands in side], _CAPTION)
    rows = Counter(marks[bands][1] for bands in side)
    captions = []
    for bands, y in zip(side, heights, strict=True):
        x, wanted = marks[bands]
        at = (min(x, edge) - 0.5, y) if is_left else (edge + 0.5, y)
        is_apart = abs(y - wanted) > 0.2 or abs(at[0] - x) > 1
        has_leader = is_apart and (is_left or rows[wanted] > 1)
        captions.append(Caption(bands, at, is_left, has_leader))
    return captions
