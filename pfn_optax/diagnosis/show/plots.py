"""Profiles over depth as SVG, written by hand.

By hand rather than by Matplotlib: colours follow the page's light or dark ground, each layer
answers when it is pointed at, names need no escape but HTML's, and no further library is needed.
"""

import html
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pfn_optax.diagnosis.diagnosis import Diagnosis, LayerProfile
from pfn_optax.diagnosis.show.layers import findings_of
from pfn_optax.diagnosis.show.words import number, printable, severity, shortened

_WIDTH, _HEIGHT = 360, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 350, 22, 138
_MOST_ANSWERING = 400  # layers; beyond that what is said of each would be most of the page
_SMALLEST = 1e-300


class Panel(NamedTuple):
    """One plot.

    Attributes:
        title: above it.
        series: fields of `LayerProfile`, and what each is called.
        is_share: whether the axis is from 0 to 1; otherwise it is logarithmic.
    """

    title: str
    series: tuple[tuple[str, str], ...]
    is_share: bool = False


PANELS = (
    Panel(
        "Gradient norm",
        (("gradient_norm", "by the parameters"), ("backward_norm", "by the preactivations")),
    ),
    Panel("Signal", (("mean_square", "mean square of preactivations"), ("gain", "gain"))),
    Panel("Rank", (("activation_rank", "of the activations"), ("width", "units"))),
    Panel(
        "Dead and saturated units",
        (("dead_units", "dead"), ("saturated_share", "saturated")),
        is_share=True,
    ),
    Panel("First update", (("update_ratio", "norm of the update over that of the parameters"),)),
    Panel("Flow network", (("capacity", "capacity"),)),
)


def figures(diagnosis: Diagnosis) -> Iterator[str]:
    """Yields a figure for each profile that holds at least two values."""
    marks = list(_marks(diagnosis))
    for panel in PANELS:
        series = [one for one in panel.series if len(_values(diagnosis.layers, one[0])) > 1]
        if series:
            yield _figure(panel._replace(series=tuple(series)), diagnosis.layers, marks)


def _values(layers: Sequence[LayerProfile], field: str) -> dict[int, float]:
    found = {index: getattr(layer, field) for index, layer in enumerate(layers)}
    return {index: float(value) for index, value in found.items() if value is not None}


class _Mark(NamedTuple):
    """Neighbouring layers that the same findings are about."""

    first: int
    last: int
    findings: tuple[int, ...]
    severity: str


def _marks(diagnosis: Diagnosis) -> Iterator[_Mark]:
    for found, run in itertools.groupby(
        enumerate(findings_of(diagnosis)), key=lambda pair: pair[1]
    ):
        indices = [index for index, _ in run]
        if found:
            worst = max((diagnosis.findings[n - 1] for n in found), key=lambda one: one.severity)
            yield _Mark(indices[0], indices[-1], found, severity(worst))


def _figure(panel: Panel, layers: Sequence[LayerProfile], marks: Sequence[_Mark]) -> str:
    axis = _share_axis() if panel.is_share else _log_axis(panel, layers)
    lines = "".join(
        _line(_values(layers, field), axis, len(layers), f"line{index}")
        for index, (field, _) in enumerate(panel.series)
    )
    legend = "".join(
        f'<span><svg class="key line{index}" viewBox="0 0 24 8" aria-hidden="true">'
        f'<path d="M1 4H23"/>{_point(12, 4, f"line{index}")}</svg>{html.escape(name)}</span>'
        for index, (_, name) in enumerate(panel.series)
    )
    answering = _columns(panel, layers) if len(layers) <= _MOST_ANSWERING else ""
    return (
        f'<figure><figcaption><b>{panel.title}</b> <span class="legend">{legend}</span>'
        f'</figcaption><svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">'
        f"<title>{panel.title} over depth</title><desc>{_about(panel, layers, marks)}</desc>"
        f"{_grid(axis)}{_ends(layers)}{''.join(_bands(marks, len(layers)))}"
        f"{lines}{answering}</svg></figure>"
    )


def _about(panel: Panel, layers: Sequence[LayerProfile], marks: Sequence[_Mark]) -> str:
    """The plot in words."""
    parts = []
    for field, name in panel.series:
        values = [v for v in _values(layers, field).values() if math.isfinite(v)]
        if values:
            parts.append(f"{name}: from {number(min(values))} to {number(max(values))}")
    for mark in marks:
        names = [printable(layers[index].name) for index in (mark.first, mark.last)]
        numbers = ", ".join(map(str, mark.findings))
        parts.append(f"{' to '.join(dict.fromkeys(names))}: finding {numbers}")
    return html.escape("; ".join(parts))


class _Axis(NamedTuple):
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    is_log: bool

    def height(self, value: float) -> float:
        """Where a value is drawn; what is not finite at the top, zero and less at the bottom."""
        if not math.isfinite(value):
            return _TOP
        at = math.log10(max(value, _SMALLEST)) if self.is_log else value
        share = min(1.0, max(0.0, (at - self.low) / (self.high - self.low)))
        return round(_BOTTOM - share * (_BOTTOM - _TOP), 1)

    def holds(self, value: float) -> bool:
        """Whether the value can be shown for what it is."""
        return math.isfinite(value) and (value > 0 or not self.is_log)


def _share_axis() -> _Axis:
    return _Axis(0.0, 1.0, ((0.0, "0"), (0.5, "50%"), (1.0, "100%")), is_log=False)


def _log_axis(panel: Panel, layers: Sequence[LayerProfile]) -> _Axis:
    """Whole decades around all values; a tick at each, or at every few of many."""
    every = [v for field, _ in panel.series for v in _values(layers, field).values()]
    logs = [math.log10(max(v, _SMALLEST)) for v in every if 0 < v < math.inf] or [0.0]
    low, high = math.floor(min(logs) - 0.05), math.ceil(max(logs) + 0.05)
    stride = -(-(high - low) // 4)
    ticks = tuple((float(n), number(10.0**n)) for n in range(low, high + 1, stride))
    return _Axis(float(low), float(high), ticks, is_log=True)


def _grid(axis: _Axis) -> str:
    def tick(at: float, name: str) -> str:
        y = axis.height(10.0**at if axis.is_log else at)
        return (
            f'<path class="grid" d="M{_LEFT} {y}H{_RIGHT}"/>'
            f'<text x="{_LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{name}</text>'
        )

    return "".join(tick(at, name) for at, name in axis.ticks)


def _ends(layers: Sequence[LayerProfile]) -> str:
    """The names of the first and the last layer, below."""

    def text(x: int, anchor: str, name: str, way: str) -> str:
        short = html.escape(shortened(printable(name), 24))
        return (
            f'<text x="{x}" y="{_BOTTOM + 14}" text-anchor="{anchor}">{short}</text>'
            f'<text x="{x}" y="{_BOTTOM + 27}" text-anchor="{anchor}" class="way">{way}</text>'
        )

    first = text(_LEFT, "start", layers[0].name, "the data")
    return first + text(_RIGHT, "end", layers[-1].name, "the loss")


def _across(index: int, count: int) -> float:
    return round(_LEFT + 8 + index * (_RIGHT - _LEFT - 16) / max(1, count - 1), 1)


def _bands(marks: Sequence[_Mark], count: int) -> Iterator[str]:
    """The ground behind the layers of findings, with their numbers on top where there is room."""
    half = max(1.5, min(8.0, 0.4 * (_RIGHT - _LEFT - 16) / max(1, count - 1)))
    free = 0.0  # from where on the line of numbers is
    for mark in marks:
        left, right = _across(mark.first, count) - half, _across(mark.last, count) + half
        yield (
            f'<rect class="mark {mark.severity}" x="{left:.1f}" y="{_TOP}" '
            f'width="{right - left:.1f}" height="{_BOTTOM - _TOP}"/>'
        )
        label = ",".join(map(str, mark.findings))
        if 6 * len(label) > right - left + 14:
            label = f"{mark.findings[0]}…"
        middle, reach = (left + right) / 2, 3 * len(label)
        if middle - reach >= free:
            free = middle + reach + 2
            yield (
                f'<text class="mark {mark.severity}" x="{middle:.1f}" y="{_TOP - 6}" '
                f'text-anchor="middle">{label}</text>'
            )


def _line(values: dict[int, float], axis: _Axis, count: int, name: str) -> str:
    """A line through the values, broken where a value cannot be drawn to scale."""
    path, points, is_down = [], [], False
    for index, value in values.items():
        x, y = _across(index, count), axis.height(value)
        if axis.holds(value):
            path.append(f"{'L' if is_down else 'M'}{x} {y}")
        elif math.isfinite(value):
            points.append(f'<circle class="zero" cx="{x}" cy="{y}" r="3"/>')
        else:
            points.append(f'<path class="broken" d="M{x - 3} {y - 3}l6 6m-6 0l6-6"/>')
        is_down = axis.holds(value)
        if is_down and count <= 60:
            points.append(_point(x, y, name))
    return f'<g class="{name}"><path d="{"".join(path)}"/>{"".join(points)}</g>'


def _point(x: float, y: float, name: str) -> str:
    """A dot, or a square for the second line: not told apart by colour alone."""
    if name == "line0":
        return f'<circle cx="{x}" cy="{y}" r="2.5"/>'
    return f'<rect x="{x - 2.2:.1f}" y="{y - 2.2:.1f}" width="4.4" height="4.4"/>'


def _columns(panel: Panel, layers: Sequence[LayerProfile]) -> str:
    """Says what is known of a layer when its column is pointed at."""

    def column(index: int, layer: LayerProfile) -> str:
        values = ((name, getattr(layer, field)) for field, name in panel.series)
        known = "".join(f"\n{name} {number(value)}" for name, value in values if value is not None)
        half = (_RIGHT - _LEFT - 16) / max(1, len(layers) - 1) / 2
        return (
            f'<rect class="ask" x="{_across(index, len(layers)) - half:.1f}" y="{_TOP}" '
            f'width="{2 * half:.1f}" height="{_BOTTOM - _TOP}">'
            f"<title>{html.escape(printable(layer.name) + known)}</title></rect>"
        )

    return "".join(column(index, layer) for index, layer in enumerate(layers))
