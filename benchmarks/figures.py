"""The pictures of results/scaling.json and results/dynamics.json: cost against size.

python -m benchmarks.figures
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.tables import RESULTS, measurements

# Distinguishable with any colour vision (Okabe & Ito 2008). Solid in a loop, dashed in a call.
_LOOP: dict[str, Any] = {"linewidth": 2, "marker": "o", "markersize": 3.5}
_CALL: dict[str, Any] = {"linewidth": 1.3, "linestyle": "--"}
LINES: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {
    ("loop_milliseconds", "ours"): ("ours", {"color": "#0072B2", **_LOOP}),
    ("loop_milliseconds", "ours, warm"): ("ours, warm", {"color": "#56B4E9", **_LOOP}),
    ("loop_milliseconds", "OR-Tools"): ("OR-Tools", {"color": "#D55E00", **_LOOP}),
    ("milliseconds", "ours"): ("ours, a call", {"color": "#0072B2", **_CALL}),
    ("milliseconds", "scipy"): ("scipy, a call", {"color": "#009E73", **_CALL}),
    ("milliseconds", "igraph"): ("igraph, a call", {"color": "#CC79A7", **_CALL}),
    ("milliseconds", "PyMaxflow"): ("PyMaxflow, a call", {"color": "#E69F00", **_CALL}),
    ("milliseconds", "networkx"): ("networkx, a call", {"color": "#888888", **_CALL}),
}
_FAMILY_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def scaling(record: Mapping[str, Any]) -> Figure:
    """Draws one panel per family for the time, and one each for memory and compilation.

    Args:
        record: what `benchmarks.scaling` writes.

    Returns:
        The figure.
    """
    rows: Sequence[Mapping[str, Any]] = record["rows"]
    families = {
        family: [row for row in rows if row["family"] == family]
        for family in dict.fromkeys(row["family"] for row in rows)
    }
    figure = Figure(figsize=(13, 7.4), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True)
    times = [panels[0, 0], panels[0, 1], panels[1, 0], panels[1, 1]]
    for axes, (family, its) in zip(times, families.items(), strict=True):
        _draw_times(axes, its)
        axes.set_title(f"{family}: time per solve")
        axes.set_ylabel("ms")
    _same_limits(times)
    memory = {
        family: [(row["static_bytes"] + row["xla_bytes"]) / 2**20 for row in its]
        for family, its in families.items()
    }
    compilation = {
        family: [row["trace_seconds"] + row["compile_seconds"] for row in its]
        for family, its in families.items()
    }
    for axes, series, title, unit in (
        (panels[0, 2], memory, "ours: memory of a solve", "MiB"),
        (panels[1, 2], compilation, "ours: trace and compile", "s"),
    ):
        for colour, (family, values) in zip(_FAMILY_COLOURS, series.items(), strict=True):
            nodes = [row["num_nodes"] for row in families[family]]
            axes.plot(nodes, values, color=colour, label=family, **_LOOP)
        axes.set(xscale="log", title=title, ylabel=unit)
    panels[0, 2].set_yscale("log")
    panels[0, 2].legend(frameon=False, fontsize="small", loc="upper left")
    panels[1, 2].set_ylim(bottom=0)
    for axes in panels.flat:
        axes.grid(which="major", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[1]:
        axes.set_xlabel("nodes")
    shown = {
        label: handle
        for axes in times
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    labels = [label for label, _ in LINES.values() if label in shown]
    figure.legend(
        [shown[label] for label in labels],
        labels,
        loc="outside lower center",
        ncols=len(labels),
        frameon=False,
    )
    return figure


def _draw_times(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    for (measure, solver), (label, style) in LINES.items():
        points = [(row["num_nodes"], row[measure].get(solver)) for row in rows]
        points = [(nodes, value) for nodes, value in points if value is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)
    axes.set(xscale="log", yscale="log")


def _same_limits(panels: Sequence[Axes]) -> None:
    lows, highs = zip(*(axes.get_ylim() for axes in panels), strict=True)
    for axes in panels:
        axes.set_ylim(min(lows), max(highs))


def dynamics(record: Mapping[str, Any]) -> Figure:
    """Draws the cost of a step against the size of the state, and the number of exponents.

    Args:
        record: what `benchmarks.dynamics` writes.

    Returns:
        The figure.
    """
    rows: Sequence[Mapping[str, Any]] = record["costs"]
    largest = max(row["size"] for row in rows)
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    shown = (
        ("size", "units, all exponents", lambda row: row["size"] == row["num_exponents"]),
        ("num_exponents", f"exponents of {largest} units", lambda row: row["size"] == largest),
    )
    for axes, (name, label, belongs) in zip(panels, shown, strict=True):
        its = [row for row in rows if belongs(row)]
        for part, colour in zip(("spectrum", "products", "QR"), _FAMILY_COLOURS, strict=False):
            times = [row["milliseconds_per_step"][part] for row in its]
            axes.plot([row[name] for row in its], times, color=colour, label=part, **_LOOP)
        axes.set(xscale="log", yscale="log", xlabel=label)
        sizes = [row[name] for row in its]
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_xticks([], minor=True)
        axes.grid(which="major", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("ms a step")
    panels[0].legend(frameon=False, fontsize="small")
    return figure


def save(figure: Figure, file: Path) -> None:
    """Writes a figure as PNG, without needing a display, in 64 colours: a third of the bytes."""
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(100)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    image.quantize(64).save(file, optimize=True)


def main() -> None:
    """Draws the committed measurements."""
    for draw in (scaling, dynamics):
        name = draw.__name__
        save(draw(measurements()[name]), RESULTS / f"{name}.png")


if __name__ == "__main__":
    main()
