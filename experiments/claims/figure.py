"""Learning curves with the cut's history beside them, and all differences at a glance."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.claims.summary import best_of, followed, has_rates
from experiments.plots import save
from experiments.statistics import estimate

# Distinguishable with any colour vision (Okabe & Ito 2008).
_COLOURS = ("#555555", "#0072B2", "#D55E00", "#009E73", "#CC79A7")
_FAMILIES = {
    **{"study": "#0072B2", "default": "#56B4E9", "setting": "#009E73"},
    **{"control": "#D55E00", "growth": "#CC79A7"},
}


def draw(found: Mapping[str, Any], folder: Path, prefix: str = "") -> None:
    """Draw everything.

    Args:
        found: The summary.
        folder: Where `curves-SCENARIO-OPTIMIZER.png` and `differences.png` go, and `rates.png` of a
            study with seeds enough at each rate.
        prefix: Of the files' names.
    """
    for each in found["comparisons"]:
        figure = curves(each, found["config"])
        save(figure, folder / f"{prefix}curves-{each['scenario']}-{each['optimizer']}.png")
    save(differences(found), folder / f"{prefix}differences.png", num_colours=128)
    if has_rates(found):
        save(by_rate(found), folder / f"{prefix}rates.png")


def curves(comparison: Mapping[str, Any], config: Mapping[str, Any]) -> Figure:
    """Curves of the main arms, and where the cut was.

    Args:
        comparison: A scenario with an optimizer.
        config: Of the study.

    Returns:
        The figure.
    """
    arms = comparison["arms"]
    studied = followed(arms, comparison["optimizer"])
    control = best_of(arms, "control")
    shown = ["plain", *studied[:2], *([control] if control else []), *studied[2:]]
    figure = Figure(figsize=(5.5 + 4.2 * len(studied), 4.6), layout="constrained")
    left, *right = np.atleast_1d(
        figure.subplots(1, 1 + len(studied), width_ratios=[1.3] + [1] * len(studied))
    )
    steps = (np.arange(config["points"]) + 1) * config["steps"] / config["points"]
    for colour, name in zip(_COLOURS, shown, strict=False):
        label = f"{name}, rate {arms[name]['rate']:g}"
        _band(left, steps, np.transpose(arms[name]["curves"]), color=colour, label=label)
    left.set(xlabel="step", ylabel="test accuracy (%)")
    left.set_title(f"{comparison['scenario']}, {comparison['optimizer']}: mean, 95% t interval")
    # The seeds set the scale: an interval from few seeds can be far wider than all of them.
    seen = 100 * np.concatenate([np.ravel(arms[name]["curves"]) for name in shown])
    left.set_ylim(max(seen.min() - 3, 0), min(seen.max() + 3, 101))
    left.grid(alpha=0.3)
    left.legend(loc="lower right", fontsize="small")
    for axes, name in zip(right, studied, strict=True):
        _heat_map(axes, arms[name], name)
    return figure


def _band(axes: Axes, at: Any, accuracies: Iterable[Sequence[float]], **style: Any) -> None:
    """Means over seeds in %, with the interval around them."""
    values = [estimate(100 * np.asarray(seeds)) for seeds in accuracies]
    mean, low, high = np.transpose(values)
    axes.plot(at, mean, **style)
    axes.fill_between(at, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _heat_map(axes: Axes, arm: Mapping[str, Any], name: str) -> None:
    history = arm["history"]
    if not history:
        return
    shares = np.transpose(history["cut"])
    image = axes.imshow(
        shares,
        aspect="auto",
        interpolation="nearest",
        cmap="cividis",
        vmin=0,
        vmax=1,
        extent=(history["step"][0], history["step"][-1] + 1, len(shares) - 0.5, -0.5),
    )
    axes.set_yticks(range(len(shares)), arm["layers"], fontsize="small")
    axes.set(xlabel="step", title=f"{name}: where the cut is")
    figure = axes.figure
    figure.colorbar(image, ax=axes, label="share of the layer", shrink=0.8)


def differences(found: Mapping[str, Any]) -> Figure:
    """Forest plot: final accuracy minus that of the plain optimizer, all arms.

    Args:
        found: The summary.

    Returns:
        The figure.
    """
    comparisons = found["comparisons"]
    longest = max(len(each["arms"]) for each in comparisons)
    columns = min(len(comparisons), 3)
    rows = -(-len(comparisons) // columns)
    figure = Figure(
        figsize=(5 * columns, rows * (1.4 + 0.19 * longest) + 0.4), layout="constrained"
    )
    panels = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for axes in panels[len(comparisons) :]:
        axes.set_visible(False)
    for axes, each in zip(panels, comparisons, strict=False):
        compared = {name: own for name, own in each["arms"].items() if "minus_plain" in own}
        for row, own in enumerate(compared.values()):
            difference = own["minus_plain"]["accuracy"]
            mean, low, high = (100 * difference[name] for name in ("mean", "low", "high"))
            colour = _FAMILIES[own["family"]]
            axes.plot([low, high], [row, row], color=colour, linewidth=2)
            axes.plot(mean, row, "o", color=colour, markersize=4)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(compared)), list(compared), fontsize="x-small")
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.3)
        plain = 100 * float(np.mean(each["arms"]["plain"]["accuracy"]))
        axes.set_title(f"{each['scenario']}, {each['optimizer']} (plain {plain:.1f}%)", fontsize=10)
        axes.set_xlabel("test accuracy minus plain (points)")
    handles = [
        panels[0].plot([], [], "o-", color=colour, label=family)[0]
        for family, colour in _FAMILIES.items()
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(len(handles), 2 * columns + 1)
    )
    return figure


def by_rate(found: Mapping[str, Any]) -> Figure:
    """Accuracy against the learning rate, all arms at each.

    Args:
        found: The summary.

    Returns:
        The figure.
    """
    comparisons = found["comparisons"]
    figure = Figure(figsize=(4.4 * len(comparisons), 4), layout="constrained")
    panels = np.ravel(figure.subplots(1, len(comparisons), squeeze=False))
    for axes, each in zip(panels, comparisons, strict=True):
        for colour, (name, own) in zip(_COLOURS, each["arms"].items(), strict=False):
            rates = [float(rate) for rate in own["validation"]]
            _band(axes, rates, own["validation"].values(), color=colour, label=name, marker=".")
        axes.set_xscale("log")
        axes.set(xlabel="learning rate", ylabel="validation accuracy (%)")
        axes.set_title(
            f"{each['scenario']}, {each['optimizer']}: mean, 95% t interval", fontsize=10
        )
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize="small")
    return figure
