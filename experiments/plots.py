"""Figures of a run folder, as PNG files in its folder `plots`."""

import json
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image

from experiments.comparison import curves, cut_shares
from experiments.statistics import estimate

# Distinguishable with any colour vision (Okabe & Ito 2008).
_COLOURS = {"plain": "#555555", "pfn": "#0072B2", "with_pfn": "#D55E00"}


def save(figure: Figure, file: Path, *, num_colours: int | None = None) -> None:
    """Write a figure as PNG, without needing a display.

    Args:
        figure: The figure.
        file: Where to write it.
        num_colours: Size of the palette, up to 256; by default all colours are kept. Pictures of
            noise, which does not compress, take a quarter of the bytes in 128 colours.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(file, dpi=120)
    if num_colours is not None:
        with Image.open(file) as picture:
            palette = picture.convert("RGB").quantize(
                num_colours, Image.Quantize.MAXCOVERAGE, kmeans=4, dither=Image.Dither.NONE
            )
        palette.save(file, optimize=True)


def learning_curves(folder: Path) -> None:
    """Accuracy and losses by epoch: each seed thin, the mean thick, its 95% interval as a band."""
    config = json.loads((folder / "config.json").read_text())["config"]
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    has_band = config["seeds"] > 2  # from two seeds, t = 12.7 covers the whole panel
    panels = {
        "test_accuracy": "test accuracy",
        "test_loss": "test loss (nats)",
        "train_loss": "training loss (nats)",
    }
    for axes, (measure, label) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        extremes = []
        for arm in config["arms"]:
            values = curves(folder, arm, measure)
            epochs = np.arange(1, values.shape[1] + 1)
            mean, low, high = np.transpose([estimate(column) for column in values.T])
            axes.plot(epochs, values.T, color=_COLOURS[arm], linewidth=0.6, alpha=0.45)
            # Dashed and on top, so that arms on the same line are both seen.
            style: dict = {"linestyle": "--", "zorder": 3} if arm == "plain" else {}
            if len(epochs) == 1:
                style["marker"] = "o"  # a line through one point cannot be seen
            axes.plot(epochs, mean, color=_COLOURS[arm], linewidth=2, label=arm, **style)
            if has_band:
                axes.fill_between(epochs, low, high, color=_COLOURS[arm], alpha=0.15, linewidth=0)
            extremes.append(values[np.isfinite(values)])
        seen = np.concatenate(extremes)
        axes.set(xlabel="epoch", ylabel=label, xlim=(0.5, values.shape[1] + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        # The seeds set the scale: an interval from three seeds can be far wider than all of them,
        # and on a logarithmic axis its lower end can be negative.
        if seen.size and measure == "test_accuracy":
            margin = 0.05 * (seen.max() - seen.min()) + 1e-3
            axes.set_ylim(max(seen.min() - margin, 0), min(seen.max() + margin, 1.005))
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        elif seen.size and seen.min() > 0:
            axes.set_yscale("log")
            axes.set_ylim(seen.min() / 1.15, seen.max() * 1.15)
    title = _seeds(config) + "\nband: 95% t interval" * has_band
    figure.axes[0].legend(title=title, title_fontsize="small")
    figure.suptitle("{dataset}, {scenario}, {optimizer}".format(**config))
    save(figure, folder / "plots" / "learning_curves.png")


def cut_heat_map(folder: Path, arm: str) -> None:
    """Which layers were the bottleneck, and when; nothing is drawn without a diagnosis."""
    config = json.loads((folder / "config.json").read_text())["config"]
    layers, steps, shares = cut_shares(folder, arm)
    if not steps:
        return
    figure = Figure(figsize=(9, 1.6 + 0.32 * len(layers)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, aspect="auto", cmap="Reds", vmin=0, vmax=1, origin="lower")
    ticks = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 10)).round().astype(int))
    axes.set_xticks(ticks, [str(steps[i]) for i in ticks])
    axes.set_yticks(range(len(layers)), layers)
    axes.set_yticks(np.arange(len(layers) - 1) + 0.5, minor=True)
    axes.grid(which="minor", axis="y", color="0.8", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    axes.set(xlabel="diagnosis at training step", ylabel="layer: data (bottom) to loss (top)")
    axes.set_title(
        "Bottleneck layers: {dataset}, {scenario}, {optimizer}, ".format(**config)
        + f"{arm}, {_seeds(config)}"
    )
    bar = figure.colorbar(image, ax=axes, format=PercentFormatter(1))
    bar.set_label("share of the layer's blocks in the cut")
    save(figure, folder / "plots" / f"cut_heat_map-{arm}.png")


def _seeds(config: dict) -> str:
    return "one seed" if config["seeds"] == 1 else f"mean of {config['seeds']} seeds"
