"""The pictures of the study, in colours that are told apart with any colour vision."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.plots import save

# Okabe & Ito 2008; dashes and markers tell without colour.
COLOURS = ("#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#555555", "#CC79A7", "#009E73", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)), (0, (8, 2)), "-")
MARKERS = "os^vDP*X"


def rank_depth(
    found: Mapping[str, Any], names: Sequence[str], widths: Sequence[int], file: Path
) -> None:
    """Draws rank and cosine against depth at the largest width, and rank against width.

    Args:
        found: the summary of the command.
        names: the networks in the order of the colours.
        widths: in ascending order.
        file: PNG to write.
    """
    figure = Figure(figsize=(15, 5.0), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    styles = dict(zip(names, zip(COLOURS, DASHES, MARKERS, strict=False), strict=False))
    for curve in found["networks"]:
        if curve["width"] == max(widths):
            colour, dash, _ = styles[curve["network"]]
            style = {"color": colour, "linestyle": dash, "label": curve["network"]}
            band(left, curve["depths"], curve["output"], **style)
            band(middle, curve["depths"], curve["mean_cosine"], **style)
    for name, (colour, dash, marker) in styles.items():
        own = [curve for curve in found["networks"] if curve["network"] == name]
        ranks = [curve["long_run_output"] for curve in own]
        means = np.asarray([one["mean"] for one in ranks])
        right.errorbar(
            widths,
            means,
            yerr=np.asarray([one["high"] for one in ranks]) - means,
            color=colour,
            linestyle=dash,
            marker=marker,
            capsize=3,
        )
    right.plot(widths, np.sqrt(widths), color="black", linewidth=1)
    corner = widths[-1], widths[-1] ** 0.5
    right.annotate(r"$\sqrt{d}$", corner, (-30, 2), textcoords="offset points")
    left.set(xscale="log", yscale="log", xlabel="depth", ylabel="rank r of the activations")
    middle.set(xscale="log", xlabel="depth", ylabel="mean cosine between samples")
    right.set(xscale="log", yscale="log", xlabel="width d = batch", ylabel="rank r")
    right.set_xticks(widths, [str(width) for width in widths], minor=False)
    right.minorticks_off()
    left.set_title(f"d = {max(widths)}", fontsize="medium")
    middle.set_title(f"d = {max(widths)}", fontsize="medium")
    right.set_title("mean over the second half of the layers", fontsize="medium")
    for axes in (left, middle, right):
        axes.grid(alpha=0.25)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.suptitle("mean over draws, 95% interval", fontsize="medium")
    save(figure, file)


def band(axes: Any, x: Any, curve: Mapping[str, Sequence[float]], **style: Any) -> None:
    """Draws means as a line and their intervals as a band."""
    mean, low, high = (np.asarray(curve[key], float) for key in ("mean", "low", "high"))
    axes.plot(x, mean, **style)
    axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)


def isometry(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draws isometry gaps over depth beside infinite width, and rates beside the theory's.

    Args:
        rows: one per activation.
        file: PNG to write.
    """
    figure = Figure(figsize=(12, 5.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = [*COLOURS, "#882255"]  # one more, of Tol's palette
    for colour, dash, row in zip(colours, [*DASHES, "--"], rows, strict=False):
        depths = row["depths"]
        band(left, depths, row["gaps"], color=colour, linestyle=dash, label=row["activation"])
        left.plot(depths, row["theory"], color=colour, linewidth=0.8, alpha=0.6)
        if row["rate"] is not None:
            reach = row["rate"]["high"] - row["rate"]["mean"]
            style = {"color": colour, "marker": "o", "capsize": 3}
            right.errorbar([row["theory_rate"]], [row["rate"]["mean"]], [reach], **style)
            right.plot([row["theory_rate"]], [np.log(row["beta"])], color=colour, marker="x")
    ends = np.asarray([0.0, 1.1 * max(row["theory_rate"] for row in rows)])
    right.plot(ends, ends, color="grey", linewidth=0.8, label="measured = predicted")
    right.plot([], [], "ko", label="measured, 95% interval")
    right.plot([], [], "kx", label=r"$\ln \beta_0$")
    left.set(yscale="log", xlabel="layer", ylabel="isometry gap (nats)", ylim=(1e-4, 3))
    right.set(
        xlabel=r"$-2 \ln(2 - \beta_0)$, nats per layer",
        ylabel="rate at which the gap falls, nats per layer",
    )
    right.legend(fontsize="small", loc="upper left")
    left.set_title("thick: measured, 95% interval; thin: infinite width", fontsize="medium")
    for axes in (left, right):
        axes.grid(alpha=0.25)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    save(figure, file)


def norm_gradients(
    rows: Sequence[Mapping[str, Any]], shapes: Sequence[tuple[int, int]], file: Path
) -> None:
    """Draws norms of the weights' gradients over depth, a panel per shape.

    Args:
        rows: one per kind of network.
        shapes: samples and units.
        file: PNG to write.
    """
    figure = Figure(figsize=(4.2 * len(shapes), 4.8), layout="constrained")
    panels = np.ravel(figure.subplots(1, len(shapes), sharey=True))
    for axes, (samples, width) in zip(panels, shapes, strict=True):
        own = [row for row in rows if (row["samples"], row["width"]) == (samples, width)]
        for colour, row in zip(COLOURS, own, strict=False):
            depths = np.arange(1, len(row["profile"]) + 1)
            dash = "-" if row["weights"] == "gaussian" else "--"
            name = ", ".join(row[key] for key in ("activation", "norm", "weights"))
            values = 2 * np.asarray(row["profile"]) / np.log(10)
            axes.plot(depths, values, color=colour, linestyle=dash, label=name)
        axes.set(xlabel="layer", title=f"n = {samples}, d = {width}")
        axes.grid(alpha=0.25)
    panels[0].set_ylabel(r"$\log_{10} |dW|^2$, that of the last layer 0")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
    save(figure, file)


_PANELS = {
    "norms": ("ReLU", "tanh", "batch norm", "layer norm", "RMS norm", "group norm"),
    "width, and norms of tanh": (
        "ReLU",
        "ReLU, a quarter of the width",
        "ReLU, four times the width",
        "tanh, batch norm",
        "tanh, layer norm",
    ),
    "shortcuts": (
        "ReLU",
        "residual",
        "residual, small branches",
        "residual, batch norm",
        "residual, layer norm",
        "dense connections",
    ),
    "attention": (
        "attention",
        "attention, MLP",
        "attention, residual",
        "attention, residual, layer norm",
        "transformer",
    ),
}


def architectures(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draws ranks above and cosines below over depth, a column for each group of models.

    Args:
        rows: one per model.
        file: PNG to write.
    """
    figure = Figure(figsize=(4.6 * len(_PANELS), 8.2), layout="constrained")
    panels = figure.subplots(2, len(_PANELS), sharex=True, sharey="row")
    known = {row["arm"]: row for row in rows}
    for column, (title, names) in zip(panels.T, _PANELS.items(), strict=True):
        for colour, dash, name in zip(COLOURS[::-1], DASHES, names, strict=False):
            if name in known:
                own = known[name]
                depths = np.arange(1, len(own["activation_rank"]["mean"]) + 1)
                style = {"color": colour, "linestyle": dash, "label": name}
                band(column[0], depths, own["activation_rank"], **style)
                band(column[1], depths, own["mean_cosine"], **style)
        column[0].set(title=title, xscale="log", yscale="log")
        column[1].set(xlabel="block", ylim=(-0.05, 1.05))
        for axes in column:
            axes.grid(alpha=0.25)
        if column[0].lines:
            column[1].legend(fontsize="small", loc="center left", bbox_to_anchor=(0.0, -0.42))
    panels[0, 0].set_ylabel("rank r of what a block reads")
    panels[1, 0].set_ylabel("mean cosine")
    figure.suptitle("mean over draws, 95% interval", fontsize="medium")
    save(figure, file)
