"""Maps of finite-time exponents, the decision boundaries on top."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.ndimage import distance_transform_edt

from experiments.plots import save


def maps(
    found: Mapping[tuple[str, int], Mapping[str, np.ndarray]],
    rows: Sequence[Mapping[str, Any]],
    file: Path,
) -> None:
    """Draws the maps of the first seed, a row of panels per task; of images the classes too.

    Args:
        found: for each task and width its fields, as the experiment measures them.
        rows: the summary of each.
        file: PNG to write.
    """
    tasks = list(dict.fromkeys(task for task, _ in found))
    panels = {
        task: [one for one in zip(found.items(), rows, strict=True) if one[0][0][0] == task]
        for task in tasks
    }
    num_columns = max(
        len(own) + (len(one["corners"]) > 0) for own in panels.values() for ((_, one), _) in own[:1]
    )
    figure = Figure(figsize=(4.6 * num_columns, 4.2 * len(tasks)), layout="constrained")
    grid = figure.subplots(len(tasks), num_columns, squeeze=False)
    for line, own in zip(grid, panels.values(), strict=True):
        for axes, (((task, width), one), row) in zip(line, own, strict=False):
            side, axis = len(one["axis"]), one["axis"]
            values = one["map_exponents"][0].reshape(side, side)
            picture = axes.pcolormesh(axis, axis, values, cmap="cividis", shading="nearest")
            figure.colorbar(picture, ax=axes, label="largest exponent, nats per layer")
            _boundaries(axes, one)
            axes.set_title(
                f"{task}, width {width}, accuracy {row['accuracy']['mean']:.1%}\n"
                f"ridge {row['ridge']['mean']:+.3f} "
                f"[{row['ridge']['low']:+.3f}, {row['ridge']['high']:+.3f}]",
                fontsize="medium",
            )
            _label(axes, one)
        rest = line[len(own) :]
        last = own[-1][0][1]
        if len(last["corners"]) and len(rest):
            _classes(rest[0], own[-1])
            rest = rest[1:]
        for axes in rest:
            axes.set_axis_off()
    save(figure, file)


def _classes(axes: Any, panel: Any) -> None:
    """The predicted classes of the widest network on the plane."""
    ((_, width), one), _ = panel
    side, axis = len(one["axis"]), one["axis"]
    classes = one["map_classes"][0].reshape(side, side)
    picture = axes.pcolormesh(
        axis, axis, classes, cmap="tab10", vmin=-0.5, vmax=9.5, shading="nearest"
    )
    for own in np.unique(classes):  # named where the region is widest: colours alone may mislead
        depth = np.asarray(distance_transform_edt(np.pad(classes == own, 1)))[1:-1, 1:-1]
        row, column = np.unravel_index(depth.argmax(), depth.shape)
        axes.text(axis[column], axis[row], str(own), ha="center", va="center", fontsize=12)
    axes.figure.colorbar(picture, ax=axes, ticks=range(10), label="predicted class")
    axes.set_title(f"its classes, width {width}", fontsize="medium")
    _label(axes, one)


def _boundaries(axes: Any, one: Mapping[str, np.ndarray]) -> None:
    side, axis = len(one["axis"]), one["axis"]
    classes = one["map_classes"][0].reshape(side, side)
    for own in np.unique(classes):
        axes.contour(axis, axis, classes == own, levels=[0.5], colors="white", linewidths=1.2)


def _label(axes: Any, one: Mapping[str, np.ndarray]) -> None:
    if len(one["corners"]):
        axes.plot(*one["corners"].T, "k^", markerfacecolor="white", markersize=8)
        axes.set(xlabel="plane through three test images", ylabel="second axis of the plane")
    else:
        axes.set(xlabel="first input", ylabel="second input")
    axes.set_aspect("equal")
