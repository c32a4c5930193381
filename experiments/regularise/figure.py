"""The comparison as a picture: what each regulariser gains over plain training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.plots import save
from experiments.regularise.summary import PLAIN


def differences(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draws the differences in test accuracy from plain training, with their intervals.

    Args:
        rows: as `summary.compare`.
        file: PNG to write.
    """
    starts = list(dict.fromkeys(row["start"] for row in rows))
    steps = list(dict.fromkeys(row["step"] for row in rows))
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = figure.subplots(1, len(steps), squeeze=False)[0]
    for axes, step in zip(panels, steps, strict=True):
        treated = [row for row in rows if row["step"] == step and row["arm"] != PLAIN]
        arms = list(dict.fromkeys(row["arm"] for row in treated))
        for number, arm in enumerate(arms):
            gains = [row[f"over {PLAIN}"] for row in treated if row["arm"] == arm]
            places = [place + (number - (len(arms) - 1) / 2) * 0.2 for place in range(len(starts))]
            means = [100 * gain["mean"] for gain in gains]
            reach = [100 * (gain["high"] - gain["mean"]) for gain in gains]
            axes.errorbar(places, means, reach, fmt="o", capsize=3, label=arm)
        axes.axhline(0, color="grey", linewidth=1)
        axes.set_xticks(range(len(starts)), starts)
        axes.set_title(f"after {step} steps")
    panels[0].set_ylabel("test accuracy over plain, points")
    figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside right center")
    save(figure, file)
