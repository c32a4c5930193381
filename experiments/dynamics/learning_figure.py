"""The pictures of the commands that train."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.dynamics.learning import Picked
from experiments.plots import save

# Okabe & Ito 2008: distinguishable with any colour vision; the dashes tell without colour.
_COLOURS = ("#555555", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)))


def courses(arms: Mapping[str, Picked], steps: int, title: str, file: Path) -> None:
    """Draws accuracy, loss and gradient norm by step: median and range over the seeds.

    Args:
        arms: each at its learning rate.
        steps: in a round.
        title: above the panels.
        file: PNG to write.
    """
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    panels = {
        "accuracy": "test accuracy",
        "loss": "training loss (nats)",
        "norm": "norm of the gradient",
    }
    for axes, (measure, label) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for colour, dash, (arm, own) in zip(_COLOURS, _DASHES, arms.items(), strict=False):
            values = getattr(own, measure)
            at = steps * np.arange(1, values.shape[1] + 1)
            middle = np.median(values, axis=0)
            name = f"{arm} (rate {own.learning_rate:g})"
            axes.plot(at, middle, color=colour, linestyle=dash, linewidth=2, label=name)
            axes.fill_between(
                at, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.12, linewidth=0
            )
        axes.set(xlabel="training step", ylabel=label)
        if measure != "accuracy":
            axes.set_yscale("log")
        axes.grid(alpha=0.25)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.suptitle(f"{title}; line: median over seeds, band: all of them")
    save(figure, file)


def responses(
    rows: Sequence[Mapping[str, Any]],
    training: Sequence[Mapping[str, Any]],
    file: Path,
) -> None:
    """Draws linear responses by method and noise, and the training on the kernel's gradient.

    Args:
        rows: one per noise and parameter: `noise`, `parameter`, and for each method its mean and
            standard error.
        training: one per noise: `noise` and `losses`, f[seeds][steps].
        file: PNG to write.
    """
    methods = {
        "finite difference": ("s", _COLOURS[0]),
        "kernel": ("o", _COLOURS[1]),
        "path kernel": ("^", _COLOURS[3]),
        "backprop": ("x", _COLOURS[2]),
    }
    noises = sorted({row["noise"] for row in rows})
    figure = Figure(figsize=(4 * len(noises) + 5, 4.4), layout="constrained")
    panels = np.ravel(figure.subplots(1, len(noises) + 1))
    for axes, noise in zip(panels, noises, strict=False):
        own = [row for row in rows if row["noise"] == noise]
        for shift, (method, (marker, colour)) in enumerate(methods.items()):
            if method not in own[0]:
                continue
            places = np.arange(len(own)) + 0.18 * (shift - 1.5)
            mean = [row[method]["mean"] for row in own]
            reach = [2 * row[method]["standard_error"] for row in own]
            axes.errorbar(
                places, mean, yerr=reach, fmt=marker, color=colour, capsize=3, label=method
            )
        axes.set_yscale("symlog", linthresh=10)
        axes.axhline(0, color="0.6", linewidth=0.8)
        axes.set_xticks(range(len(own)), [row["parameter"] for row in own])
        axes.set(title=f"noise {noise:g}", xlabel="parameter")
        axes.grid(axis="y", alpha=0.25)
    panels[0].set_ylabel("derivative of <sum of outputs>, ±2 standard errors")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    last = panels[-1]
    for colour, dash, course in zip(_COLOURS[1:], _DASHES, training, strict=False):
        losses = np.asarray(course["losses"])
        at = np.arange(1, losses.shape[1] + 1)
        label = f"noise {course['noise']:g}"
        last.plot(at, np.median(losses, axis=0), color=colour, linestyle=dash, label=label)
        last.fill_between(
            at, losses.min(axis=0), losses.max(axis=0), color=colour, alpha=0.15, linewidth=0
        )
    last.set(xlabel="step of Adam on the kernel's gradient", ylabel="loss", yscale="log")
    last.set_title("training; band: all seeds")
    last.set_ylim(1e-5, 1e3)  # room for the legend
    last.grid(alpha=0.25)
    last.legend(loc="upper right")
    save(figure, file)


def multipliers(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draws what each arm gains over the optimizer alone, by method, with both intervals.

    Args:
        rows: one per method and arm: `method`, `arm`, `over plain`.
        file: PNG to write.
    """
    figure = Figure(figsize=(8, 1.4 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))
    for shift, (kind, marker, colour) in enumerate(
        (("bootstrap", "o", _COLOURS[1]), ("t", "s", _COLOURS[0]))
    ):
        found = [row["over plain"][kind] for row in rows]
        mean = np.asarray([100 * one["mean"] for one in found])
        low, high = (np.asarray([100 * one[end] for one in found]) for end in ("low", "high"))
        reach = np.stack([mean - low, high - mean])
        axes.errorbar(
            mean, places + 0.2 * shift, xerr=reach, fmt=marker, color=colour, capsize=3, label=kind
        )
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set_yticks(places, [f"{row['method'].replace('_', ' ')}: {row['arm']}" for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("final test accuracy over Adam alone, points")
    axes.grid(axis="x", alpha=0.25)
    figure.legend(title="95% interval", loc="outside right center")
    save(figure, file)
