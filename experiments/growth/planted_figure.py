"""The picture of `grow-planted`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from experiments import plots

_HIT, _ACCURACY = "#E69F00", "#0072B2"  # Okabe & Ito 2008
_HEALTHY = "#009E73"


def draw(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """For each plant, accuracy and share of the events at the planted layer, of each arm.

    Args:
        rows: of `planted_summary.summarise`.
        file: PNG.
    """
    mains = list(dict.fromkeys((r["kind"], r["left"]) for r in rows if r["arm"] != "nowhere"))
    hows = ("none", "initialised")
    shown = [row for row in rows if row["how"] in hows and (row["kind"], row["left"]) in mains]
    arms = list(dict.fromkeys(row["arm"] for row in shown))
    healthy = [row for row in rows if row["kind"] == "healthy"]
    figure = Figure(figsize=(4.6 * len(mains), 1.6 + 0.3 * len(arms)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(mains), sharey=True))
    for axes, (kind, left) in zip(panels, mains, strict=True):
        own = [row for row in shown if (row["kind"], row["left"]) == (kind, left)]
        y = np.array([-arms.index(row["arm"]) for row in own])
        hits = axes.twiny()
        hits.barh(y, [row["hits"] or 0 for row in own], color=_HIT, alpha=0.35, height=0.7)
        hits.set(xlim=(0, 1))
        hits.xaxis.set_major_formatter(PercentFormatter(1))
        hits.set_xlabel("events at the planted layer (bars)", color="#8a5f00")
        for height, row in zip(y, own, strict=True):
            values = row["accuracy"]
            axes.plot(values, np.full(len(values), height), ".", color=_ACCURACY, ms=4, alpha=0.45)
        means, lows, highs = (
            np.array([row["accuracy_interval"][name] for row in own])
            for name in ("mean", "low", "high")
        )
        errors = [means - lows, highs - means]
        axes.errorbar(means, y, xerr=errors, fmt="o", color=_ACCURACY, ms=5, lw=1.3)
        for row in healthy:
            axes.axvline(row["accuracy_interval"]["mean"], color=_HEALTHY, ls="--", lw=1.2)
        axes.set_zorder(hits.get_zorder() + 1)
        axes.patch.set_visible(False)
        axes.set_yticks(range(0, -len(arms), -1), arms)
        axes.set_xlabel("test accuracy: seeds, mean, 95% interval", color=_ACCURACY)
        axes.set_title(f"{kind}, {left} of 64 left")
        axes.grid(axis="x", alpha=0.3)
    if healthy:
        figure.supxlabel("dashed: the healthy network without growth", fontsize=9, color=_HEALTHY)
    plots.save(figure, file)
