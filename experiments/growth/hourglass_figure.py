"""The picture: accuracy of each arm, and beside it the widths that it ended with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.plots import save
from experiments.statistics import estimate

# Okabe & Ito 2008: distinguishable with any colour vision.
_MEAN, _SEED = "#0072B2", "#999999"


def accuracies(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draws accuracies with intervals, and mean final widths, an arm a row.

    Args:
        rows: of `hourglass_tables.summarise`.
        file: PNG to write.
    """
    figure = Figure(figsize=(11, 1.6 + 0.3 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    places = np.arange(len(rows))
    for place, row in zip(places, rows, strict=True):
        own = 100 * np.asarray(row["accuracy"])
        mean, low, high = estimate(own)
        left.plot(own, np.full(len(own), place), "|", color=_SEED, markersize=9)
        if len(own) > 1:
            left.plot([low, high], [place, place], color=_MEAN, linewidth=1.5)
        left.plot(mean, place, "o", color=_MEAN)
    left.set_yticks(places, [row["arm"] for row in rows])
    left.invert_yaxis()
    left.set_xlabel("test accuracy, %: mean, 95% t interval, seeds")
    left.grid(alpha=0.25)
    found = np.array([row["widths"] for row in rows])
    image = right.imshow(found, aspect="auto", cmap="cividis", vmin=0)
    for (place, number), value in np.ndenumerate(found):
        colour = "black" if value > 0.6 * found.max() else "white"
        right.text(number, place, f"{value:.3g}", ha="center", va="center", color=colour, size=8)
    right.set_xticks(range(found.shape[1]), [str(number) for number in range(found.shape[1])])
    right.set_xlabel("convolution (2 makes the waist)")
    figure.colorbar(image, ax=right).set_label("channels at the end, mean over seeds")
    save(figure, file)
