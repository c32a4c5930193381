"""The comparison as a picture: how well averages do, by the way they were aligned."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.plots import save


def averages(
    rows: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]], file: Path
) -> None:
    """Draws the test accuracies of the averages with their intervals.

    Args:
        rows: as `summary.compare`.
        records: one per repeat, for the accuracy of a single network.
        file: PNG to write.
    """
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))
    for shift, (name, label) in enumerate({"pair": "of two", "all": "of all"}.items()):
        means = [100 * row[name]["mean"] for row in rows]
        reach = [100 * (row[name]["high"] - row[name]["mean"]) for row in rows]
        axes.errorbar(means, places + 0.2 * shift, xerr=reach, fmt="o", capsize=3, label=label)
    single = 100 * float(np.mean([record["single"] for record in records]))
    axes.axvline(single, color="grey", linewidth=1, label="a single network")
    axes.set_yticks(places, [row["way"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(right=100)
    axes.set_xlabel("test accuracy of the average, percent")
    figure.legend(loc="outside right center")
    save(figure, file)
