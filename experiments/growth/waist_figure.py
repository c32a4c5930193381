"""The picture of `grow-waist`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments import plots

# Distinguishable with any colour vision (Okabe & Ito 2008).
_HOWS = {
    "none": ("no growth, or from scratch", "#555555", "D"),
    "fresh": ("fresh units", "#0072B2", "o"),
    "split": ("split units", "#D55E00", "s"),
    "equal parameters": ("fresh units, equal parameters", "#009E73", "^"),
}
_COURSES = {
    "uniform": "#999999",
    "narrowest": "#000000",
    "cut, norm": "#E69F00",
    "cut, sensitivity": "#0072B2",
    "cut, rank": "#CC79A7",
    "cut, relative": "#D55E00",
    "gradmax": "#009E73",
}


def draw(rows: Sequence[Mapping[str, Any]], every: int, file: Path) -> None:
    """Accuracy of each arm with its interval, and the waist over time.

    Args:
        rows: of `waist_summary.summarise`.
        every: steps from one event to the next.
        file: PNG.
    """
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    figure = Figure(figsize=(12.5, 1.6 + 0.3 * len(arms)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    places = {arm: -number for number, arm in enumerate(arms)}
    hows = [how for how in _HOWS if any(row["how"] == how for row in rows)]
    for how in hows:
        label, colour, marker = _HOWS[how]
        own = [row for row in rows if row["how"] == how]
        offset = 0.0 if how == "none" else 0.24 * (2 - hows.index(how))
        y = np.array([places[row["arm"]] + offset for row in own])
        means, lows, highs = (
            np.array([row["interval"][name] for row in own]) for name in ("mean", "low", "high")
        )
        for height, row in zip(y, own, strict=True):
            values = row["accuracy"]
            left.plot(values, np.full(len(values), height), ".", color=colour, ms=4, alpha=0.45)
        left.hlines(y, lows, highs, color=colour, lw=1.3)
        left.plot(means, y, marker, color=colour, ms=5, label=label)
    left.set_yticks([*places.values()], [*places])
    left.set(xlabel="test accuracy: seeds, mean, 95% bootstrap interval", xlim=(0.05, 1.0))
    left.set_ylim(-len(arms) + 0.4, 0.7)
    left.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper left", ncols=4, fontsize="small")
    for row in rows:
        if row["how"] == "fresh" and row["arm"] in _COURSES:
            course = row["waist_course"]
            steps = every * np.arange(len(course))
            right.plot(steps, course, color=_COURSES[row["arm"]], label=row["arm"], lw=2)
    right.set(xlabel="training step", ylabel="units of the waist, mean over seeds (fresh units)")
    right.legend(fontsize="small")
    right.grid(alpha=0.3)
    plots.save(figure, file)
