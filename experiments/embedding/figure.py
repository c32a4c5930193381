"""The pictures of the study."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.plots import save

_SIGNS = {"negative": "#0072B2", "zero": "#999999", "positive": "#D55E00"}


def loss_curves(losses: Mapping[int, np.ndarray], every: int, file: Path) -> None:
    """Draws the losses of all widths; of each width the start that ends lowest is thick.

    Args:
        losses: for each width f[num_starts, num_records].
        every: steps between records.
        file: PNG to write.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for colour, (width, curves) in zip(_colours(losses), losses.items(), strict=True):
        steps = every * np.arange(1, curves.shape[1])
        axes.plot(steps, curves[:, 1:].T, color=colour, linewidth=0.5, alpha=0.35)
        best = curves[curves[:, -1].argmin()]
        axes.plot(steps, best[1:], color=colour, linewidth=2, label=f"{width} units")
    axes.set(xscale="log", yscale="log", xlabel="step of gradient descent", ylabel="loss")
    axes.grid(alpha=0.25)
    axes.legend(title="the best of each width")
    save(figure, file)


def plateau(
    found: Mapping[int, Mapping[str, Any]], x: np.ndarray, y: np.ndarray, *, file: Path
) -> None:
    """Draws outputs and merged units of all widths at one loss.

    Args:
        found: for each width its outputs at x, its loss and its merged units.
        x: f[num_points].
        y: the target, f[num_points].
        file: PNG to write.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(x, y, "k:", label="target")
    markers = "osD^v<>"
    for place, (colour, (width, row)) in enumerate(
        zip(_colours(found), found.items(), strict=True)
    ):
        # Thinner and thinner on top of each other, since they coincide.
        size = 7 - 5 * place / max(len(found) - 1, 1)
        left.plot(x, row["outputs"], color=colour, linewidth=size, label=f"{width} units")
        right.scatter(
            [unit["angle"] for unit in row["units"]],
            [unit["amplitude"] for unit in row["units"]],
            s=40 * size,
            marker=markers[place % len(markers)],
            facecolors="none",
            edgecolors=[colour],
            linewidths=1.5,
        )
    left.set(xlabel="x", ylabel="output")
    left.legend()
    right.set(xlabel="direction of (w, b)", ylabel="summed amplitude |a| |(w, b)|")
    right.set_xlim(-np.pi, np.pi)
    right.set_ylim(bottom=0)
    right.set_xticks(np.pi * np.asarray([-1, -0.5, 0, 0.5, 1]), ["-π", "-π/2", "0", "π/2", "π"])
    for axes in (left, right):
        axes.grid(alpha=0.25)
    save(figure, file)


def spectrum(counts: Mapping[int, np.ndarray], edges: np.ndarray, file: Path) -> None:
    """Draws how often networks of each width were at each loss.

    Args:
        counts: for each width the steps of all starts by log10 loss, i64[num_bins].
        edges: of the bins, f64[num_bins + 1].
        file: PNG to write.
    """
    shares = np.asarray([own / max(own.sum(), 1) for own in counts.values()])
    logs = np.log10(np.where(shares > 0, shares, np.nan))
    figure = Figure(figsize=(9, 1.2 + 0.4 * len(counts)), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("black")
    picture = axes.pcolormesh(edges, np.arange(len(counts) + 1), logs, cmap="inferno")
    axes.set_yticks(np.arange(len(counts)) + 0.5, [str(width) for width in counts])
    axes.set(xlabel="log10 loss", ylabel="hidden units")
    figure.colorbar(picture, label="log10 share of the steps")
    save(figure, file)


def eigenvalues(
    panels: Mapping[str, Sequence[Mapping[str, Any]]], titles: Mapping[str, str], file: Path
) -> None:
    """Draws the sizes of eigenvalues by sign, a row of panels per data set.

    Args:
        panels: for each data set one entry per number of copies: `width`, `eigenvalues`,
            `negative`, `zero`, `positive` and `tolerance`.
        titles: what to write before each row.
        file: PNG to write.
    """
    figure = Figure(figsize=(10, 3.1 * len(panels)), layout="constrained")
    rows = figure.subplots(
        len(panels), len(next(iter(panels.values()))), squeeze=False, sharey="row"
    )
    for row, (name, entries) in zip(rows, panels.items(), strict=True):
        for axes, entry in zip(row, entries, strict=True):
            values = np.asarray(entry["eigenvalues"])
            counts = {sign: entry[sign] for sign in _SIGNS}
            is_of = {
                "negative": values < -entry["tolerance"],
                "zero": np.abs(values) <= entry["tolerance"],
                "positive": values > entry["tolerance"],
            }
            order = np.argsort(-np.abs(values))
            for sign, colour in _SIGNS.items():
                places = np.flatnonzero(is_of[sign][order])
                sizes = np.maximum(np.abs(values[order][places]), 1e-19)
                axes.plot(places + 1, sizes, "o", color=colour, label=f"{counts[sign]} {sign}")
            axes.axhline(entry["tolerance"], color="grey", linestyle="--", linewidth=1)
            axes.set(yscale="log", title=f"m = {entry['width']}", xlabel="rank")
            axes.grid(alpha=0.25)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend(fontsize="small", loc="lower left")
        row[0].set_ylabel(f"{titles[name]}\n|eigenvalue|")
    save(figure, file)


def _colours(items: Mapping) -> list:
    return [colormaps["viridis"](place) for place in np.linspace(0, 0.9, len(items))]
