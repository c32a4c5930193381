"""The confusion matrix as a picture."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.diagnose.scores import HEALTHY, NOTHING
from experiments.plots import save
from pfn_optax.diagnosis import Cause


def confusion_matrix(rows: Mapping[str, Mapping[str, float]], title: str, file: Path) -> None:
    """Draws which causes are told of which planted ones; right answers have a frame.

    Args:
        rows: of each planted cause, or pair of names for it, the share of diagnoses whose first
            two findings include each cause.
        title: of the picture.
        file: PNG to write.
    """
    columns = [*(cause.value for cause in Cause), NOTHING]
    shares = np.array([[row.get(column, 0.0) for column in columns] for row in rows.values()])
    size = (2.8 + 0.52 * len(columns), 2.6 + 0.36 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        if share > 0:
            axes.text(
                column,
                row,
                f"{share:.2f}".lstrip("0"),
                ha="center",
                va="center",
                fontsize=8,
                color="white" if share > 0.6 else "black",
            )
    for row, name in enumerate(rows):
        for right in [NOTHING] if name == HEALTHY else name.split(" or "):
            corner = (columns.index(right) - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#D55E00", linewidth=1.8))
    shown = [name.replace("_", " ") for name in columns]
    axes.set_xticks(range(len(columns)), shown, rotation=50, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), [name.replace("_", " ") for name in rows])
    axes.set(xlabel="told, first two findings (framed: right)", ylabel="planted", title=title)
    figure.colorbar(picture, ax=axes, label="share of diagnoses", shrink=0.8)
    save(figure, file)
