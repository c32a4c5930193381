"""The table as a picture: recall of each method, for each kind of bottleneck."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from experiments.planted.bottlenecks import KINDS
from experiments.planted.tables import number
from experiments.plots import save


def heat_map(summary: Mapping[str, Any], file: Path) -> None:
    """Draws recall at initialisation and after training, methods by kinds.

    Args:
        summary: as `tables.summary`.
        file: PNG to write.
    """
    titles = {"initial": "at initialisation", "trained": "after training"}
    methods = list(summary["views"]["initial"])
    figure = Figure(figsize=(11, 2 + 0.25 * len(methods)), layout="constrained")
    panels = figure.subplots(1, len(titles), sharey=True)
    for axes, (view, title) in zip(panels, titles.items(), strict=True):
        rows = summary["views"][view]
        cells = [[number(rows[method][kind], "recall") for kind in KINDS] for method in methods]
        recall = np.array(cells, np.float64)
        image = axes.imshow(recall, aspect="auto", cmap="cividis", vmin=0, vmax=1)
        for (row, column), value in np.ndenumerate(recall):
            if np.isfinite(value):
                colour = "black" if value > 0.6 else "white"
                axes.text(
                    column, row, f"{value:.2f}", ha="center", va="center", color=colour, size=8
                )
        groups = [method.split(":")[0] if ":" in method else "" for method in methods]
        borders = [row for row in range(1, len(groups)) if groups[row] != groups[row - 1]]
        axes.hlines(np.array(borders) - 0.5, -0.5, len(KINDS) - 0.5, color="white", linewidth=3)
        axes.set_xticks(range(len(KINDS)), KINDS, rotation=35, ha="right")
        axes.set_yticks(range(len(methods)), methods)
        axes.set_title(title)
    bar = figure.colorbar(image, ax=panels, format=PercentFormatter(1), pad=0.01)
    bar.set_label("share of networks: a right layer is named (healthy: only the head)")
    figure.suptitle(f"Does the cut know? {summary['networks']} networks, one planted layer each")
    save(figure, file)
