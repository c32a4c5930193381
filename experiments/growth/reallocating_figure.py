"""The pictures of moving units: accuracies with intervals, and the widths over time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.growth.allocation_figure import GROUPS, differences
from experiments.plots import save


def reallocations(found: Mapping[str, Any], file: Path) -> None:
    """Draws, for each start, the differences to no moves, and the widths over time of two arms.

    Args:
        found: the results of the command.
        file: PNG to write.
    """
    starts = list(dict.fromkeys(row["start"] for row in found["rows"]))
    figure = Figure(figsize=(16, 4.9 * len(starts)), layout="constrained")
    grid = figure.subplots(len(starts), 3, squeeze=False, width_ratios=(1.5, 1, 1))
    for start, panels in zip(starts, grid, strict=True):
        rows = [row for row in found["rows"] if row["start"] == start]
        base = next((row for row in rows if row["arm"] == "nowhere"), None)
        differences(panels[0], rows, ("over nowhere",), ("units moved",))
        share = "" if base is None else f" ({base['accuracy']:.1%})"
        panels[0].set(
            title=f"from {start}",
            xlabel=f"test accuracy over no moves{share}, points (95% interval)",
        )
        cuts = [row for row in rows if row["arm"].startswith("cut, ")]
        ends = {max(cuts, key=_gain)["arm"], min(cuts, key=_gain)["arm"]} if cuts else set()
        for axes, arm in zip(panels[1:], sorted(ends), strict=False):
            _widths(axes, found, start, arm)
    save(figure, file, num_colours=64)


def _gain(row: Mapping[str, Any]) -> float:
    return row["accuracy"]


def _widths(axes: Axes, found: Mapping[str, Any], start: str, arm: str) -> None:
    """Each seed thin, the mean thick."""
    record = next(one for one in found["moved"] if (one["start"], one["arm"]) == (start, arm))
    hidden = [int(width) for width in start.partition(", ")[2].split("-")]
    runs = np.asarray(
        [[hidden, *(move["widths"] for move in one["moves"])] for one in record["networks"]]
    )
    steps = found["config"]["every"] * np.arange(runs.shape[1])
    for number in range(len(hidden)):
        colour = GROUPS[number % len(GROUPS)]
        axes.plot(steps, runs[:, :, number].T, color=colour, linewidth=0.5, alpha=0.5)
        axes.plot(
            steps,
            runs[:, :, number].mean(axis=0),
            color=colour,
            linewidth=2,
            marker="osD^vP"[number % 6],
            label=f"layer {number + 1}",
        )
    axes.set(title=f"{arm}", xlabel="training step", ylabel="units", ylim=(0, None))
    axes.grid(alpha=0.25)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False)
