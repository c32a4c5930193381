"""Learning curves beside ranks and gradient norms by depth and time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from experiments.plots import save
from experiments.propagation.figure import COLOURS, DASHES
from pfn_optax.drawing import draw_history
from pfn_optax.propagation import History

_MEASURES = {"rank": "activation rank", "gradient": "gradient norm"}


def watched(arms: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draws the curves on top, a column of depth-by-time maps for each arm below.

    Args:
        arms: the summary's, one per network.
        file: PNG to write.
    """
    figure = Figure(figsize=(3.1 * len(arms) + 1, 11), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 1.9))
    top, bottom = parts
    _curves(arms, top)
    panels = np.reshape(bottom.subplots(len(_MEASURES), len(arms)), (len(_MEASURES), -1))
    for row, (name, label) in zip(panels, _MEASURES.items(), strict=True):
        values = [np.asarray(arm[name], float) for arm in arms]
        positive = np.concatenate([one[one > 0] for one in values])
        for axes, arm, own in zip(row, arms, values, strict=True):
            layers = tuple(str(index + 1) for index in range(own.shape[1]))
            history = History(np.asarray(arm["steps"], int), layers, {label: own})
            draw_history(history, label, axes=axes)
            # One scale for all arms: what is compared must have the same colours.
            axes.collections[0].set_norm(LogNorm(positive.min(), positive.max()))
            shown = np.unique(np.linspace(0, own.shape[1] - 1, 6).astype(int))
            axes.set_yticks(shown + 0.5, [layers[index] for index in shown])
            axes.set_title(f"{arm['arm']}\n{label}", fontsize="medium")
        row[0].set_ylabel("layer")
    save(figure, file)


def _curves(arms: Sequence[Mapping[str, Any]], figure: Any) -> None:
    left, right, far = figure.subplots(1, 3)
    for arm, colour, dash in zip(arms, COLOURS, DASHES, strict=False):
        steps = np.asarray(arm["steps"], float)
        every = steps[1] - steps[0] if len(steps) > 1 else 1.0
        style = {"color": colour, "linestyle": dash, "linewidth": 2}
        for axes, name, at in (
            (left, "loss", steps + every / 2),
            (right, "accuracy", steps + every),
        ):
            values = np.asarray(arm[name], float)
            label = f"{arm['arm']} (rate {arm['rate']:g})"
            axes.plot(at, np.median(values, axis=0), label=label, **style)
            low, high = values.min(axis=0), values.max(axis=0)
            axes.fill_between(at, low, high, color=colour, alpha=0.12, linewidth=0)
        start, final = arm["rank_at_start"], arm["final_accuracy"]
        far.errorbar(
            [start["mean"]],
            [final["mean"]],
            xerr=[[start["mean"] - start["low"]], [start["high"] - start["mean"]]],
            yerr=[[final["mean"] - final["low"]], [final["high"] - final["mean"]]],
            color=colour,
            marker="o",
            capsize=3,
        )
    left.set(xlabel="training step", ylabel="training loss (nats)", yscale="log")
    right.set(xlabel="training step", ylabel="test accuracy")
    far.set(
        xlabel="rank of the last hidden layer at the start",
        ylabel="test accuracy at the end",
        xscale="log",
    )
    for axes in (left, right, far):
        axes.grid(alpha=0.25)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.suptitle("line: median over seeds, band: all of them; points: mean, 95% interval")
