"""The pictures of growth to a budget: accuracies with intervals, and widths at the end."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.plots import save

# Okabe & Ito 2008.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
GROUPS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7")


def allocations(found: Mapping[str, Any], file: Path) -> None:
    """Draws, for each start, the differences to uniform scaling and the widths over time.

    Args:
        found: the results of the command.
        file: PNG to write.
    """
    starts = list(dict.fromkeys(row["start"] for row in found["rows"]))
    figure = Figure(figsize=(14, 4.9 * len(starts)), layout="constrained")
    for start, panels in zip(starts, figure.subplots(len(starts), 2, squeeze=False), strict=True):
        rows = [row for row in found["rows"] if row["start"] == start]
        uniform = next((row for row in rows if row["arm"] == "uniform"), None)
        left, right = panels
        differences(
            left,
            [row for row in rows if row["arm"] != "nowhere"],
            ("over uniform", "widths over uniform"),
            ("grown", "same widths, from scratch"),
        )
        share = "" if uniform is None else f" ({uniform['accuracy']:.1%})"
        left.set(
            title=f"from {start}",
            xlabel=f"test accuracy over uniform scaling{share}, points (95% interval)",
        )
        shares(right, rows)
        right.set(title="units at the end by layer, mean over seeds", xlabel="units")
    save(figure, file, num_colours=64)


def differences(
    axes: Axes, rows: Sequence[Mapping[str, Any]], keys: Sequence[str], labels: Sequence[str]
) -> None:
    """Draws differences with their intervals, an arm per line.

    Args:
        axes: where.
        rows: one per arm; those without the first key are left out.
        keys: of the differences.
        labels: what they are.
    """
    rows = [row for row in rows if keys[0] in row]
    places = np.arange(len(rows))[::-1]
    for number, (key, label) in enumerate(zip(keys, labels, strict=True)):
        own = [(place, row[key]) for place, row in zip(places, rows, strict=True) if key in row]
        if not own:
            continue
        means = np.asarray([value["mean"] for _, value in own])
        ends = np.asarray([(value["low"], value["high"]) for _, value in own])
        axes.errorbar(
            100 * means,
            [place - 0.22 * number for place, _ in own],
            xerr=100 * np.abs(ends.T - means),
            fmt="os"[number % 2],
            color=(BLUE, ORANGE)[number % 2],
            markersize=5,
            capsize=2,
            label=label,
        )
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_yticks(places, [row["arm"] for row in rows])
    axes.grid(axis="x", alpha=0.25)
    if len(keys) > 1:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=len(keys), frameon=False)


def shares(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws the widths at the end, an arm per bar."""
    places = np.arange(len(rows))[::-1]
    left = np.zeros(len(rows))
    widths = np.asarray([row["widths"] for row in rows])
    for number, own in enumerate(widths.T):
        axes.barh(
            places,
            own,
            left=left,
            color=GROUPS[number % len(GROUPS)],
            edgecolor="white",
            label=f"layer {number + 1}",
        )
        for place, start, width in zip(places, left, own, strict=True):
            if width > 0.04 * widths.sum(axis=1).max():
                axes.text(start + width / 2, place, f"{width:.0f}", ha="center", va="center")
        left = left + own
    axes.set_yticks(places, [row["arm"] for row in rows])
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=widths.shape[1], frameon=False
    )
