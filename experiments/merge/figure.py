"""Pictures: barrier against width, and the loss along one line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.merge.paths import from_json
from experiments.plots import save
from pfn_optax.drawing import draw_barrier

# Distinguishable with any colour vision (Okabe & Ito 2008).
_COLOURS = ("#555555", "#0072B2", "#E69F00", "#009E73")


def barriers(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draws the barrier against the width, one panel per split.

    Args:
        rows: as `summary.by_width`.
        file: PNG to write.
    """
    widths = list(dict.fromkeys(row["width"] for row in rows))
    splits = list(dict.fromkeys(row["split"] for row in rows))
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    for axes, split in zip(panels, splits, strict=True):
        for arm, colour in zip(arms, _COLOURS, strict=False):
            own = [row["barrier"] for row in rows if (row["arm"], row["split"]) == (arm, split)]
            means = [one["mean"] for one in own]
            axes.plot(widths, means, "o-", color=colour, label=arm, markersize=4)
            lows, highs = ([one[bound] for one in own] for bound in ("low", "high"))
            axes.fill_between(widths, lows, highs, color=colour, alpha=0.18, linewidth=0)
        axes.set_xscale("log", base=2)
        axes.set_yscale("symlog", linthresh=0.01)  # aligned barriers reach 0
        axes.set_xticks(widths, map(str, widths))
        axes.set(xlabel="width of the hidden layers", title=split)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("barrier, nats")
    panels[0].set_ylim(bottom=-0.0005)
    panels[-1].legend(fontsize="small", title="mean over pairs; band: 95%", title_fontsize="small")
    save(figure, file)


def line(arms: Mapping[str, Any], title: str, file: Path) -> None:
    """Draws loss and accuracy along the line between two networks, one curve per arm and split.

    Args:
        arms: curves by arm, as `paths.to_json`.
        title: what the networks are.
        file: PNG to write.
    """
    curves = {arm: from_json(one) for arm, one in arms.items()}
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_barrier(curves, axes=left)
    draw_barrier(curves, metric="accuracy", axes=right)
    left.set_ylabel("cross entropy, nats")
    for axes in (left, right):
        axes.get_legend().remove()
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize="small")
    figure.suptitle(title)
    save(figure, file)
