"""The picture of the study, in the four panels of the original and one more."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.plots import save


def condensation(
    wide_losses: np.ndarray,
    wide: np.ndarray,
    small: np.ndarray,
    num_removed: int,
    record: Mapping[str, Any],
    file: Path,
) -> None:
    """Draws losses, similarities before and after, and pairs of predictions.

    Args:
        wide_losses: f32[1 + num_steps].
        wide: cosines of its units, cluster after cluster and the removed ones last,
            f64[width, width].
        small: those of the units that stay, f64[num_clusters, num_clusters].
        num_removed: how many are removed.
        record: of the smaller network, trained: its losses and pairs of predictions.
        file: PNG to write.
    """
    figure = Figure(figsize=(17, 3.9), layout="constrained")
    panels = figure.subplots(1, 5)
    goal = wide_losses[-1]
    panels[0].semilogy(wide_losses, color="#555555")
    panels[0].plot(len(wide_losses) - 1, goal, "o", color="#0072B2")
    panels[0].set(title=f"{len(wide)} units", xlabel="step", ylabel="training loss")
    for axes, cosines, title in (
        (panels[1], wide, f"cosines, {num_removed} removed units last"),
        (panels[2], small, f"of the {len(small)} that stay"),
    ):
        picture = axes.imshow(cosines, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        axes.set(title=title, xlabel="unit", ylabel="unit")
    figure.colorbar(picture, ax=panels[2], label="cosine of [w; b]")
    edge = len(wide) - num_removed - 0.5
    panels[1].axhline(edge, color="black", linewidth=0.8)
    panels[1].axvline(edge, color="black", linewidth=0.8)
    panels[3].semilogy(record["losses"], color="#D55E00")
    panels[3].plot(len(record["losses"]) - 1, record["losses"][-1], "o", color="#0072B2")
    panels[3].axhline(goal, color="#0072B2", linestyle="--")
    panels[3].set(title=f"{len(small)} units, from there", xlabel="step", ylabel="training loss")
    pairs = np.asarray(record["pairs"])
    picture = panels[4].imshow(pairs / pairs.sum(), cmap="viridis")
    agreement = record["trained"]["agreement"]
    panels[4].set(
        title=f"predictions agree on {agreement:.1%}",
        xlabel=f"{len(small)} units",
        ylabel=f"{len(wide)} units",
    )
    figure.colorbar(picture, ax=panels[4], label="share of test images")
    save(figure, file, num_colours=128)


def channels(records: list[dict[str, Any]], accuracy: float, width: int, file: Path) -> None:
    """Draws the accuracy of smaller networks at once and tuned: each seed thin, the mean thick.

    Args:
        records: of every seed, size, method and refit.
        accuracy: the mean of the wide networks.
        width: channels of their first layer.
        file: PNG to write.
    """
    colours = {"condense": "#0072B2", "magnitude": "#D55E00", "random": "#777777"}
    sizes = sorted({one["units"] for one in records})
    seeds = sorted({one["seed"] for one in records})
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    panels = {
        "summed, at once": (False, "at_once"),
        "summed, tuned": (False, "trained"),
        "refit, at once": (True, "at_once"),
        "refit, tuned": (True, "trained"),
    }
    grid = zip(figure.subplots(1, 4, sharey=True), panels.items(), strict=True)
    for axes, (title, (is_refit, when)) in grid:
        for method, colour in colours.items():
            found = {
                (one["seed"], one["units"]): one[when]["test_accuracy"]
                for one in records
                if (one["method"], one["is_refit"]) == (method, is_refit)
            }
            curves = np.asarray([[found.get((s, n), np.nan) for n in sizes] for s in seeds])
            axes.plot(sizes, curves.T, color=colour, linewidth=0.6, alpha=0.4)
            axes.plot(sizes, curves.mean(0), "o-", color=colour, markersize=4, label=method)
        axes.axhline(accuracy, color="black", linestyle="--", linewidth=0.8)
        title = (
            f"{'refit' if is_refit else 'summed'}, {'at once' if when == 'at_once' else 'tuned'}"
        )
        axes.set(title=title, xlabel=f"channels of {width}", xticks=sizes)
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel("test accuracy")
    figure.axes[0].legend(loc="upper left", fontsize="small")
    save(figure, file, num_colours=128)
