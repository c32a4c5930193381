"""How a network grew as a picture: the number of units of each group over the steps."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pfn_optax.growth import GrowthRecord

_CUT = "crimson"
_MOST_NAMES = 24


def draw_widths(record: "GrowthRecord", *, axes: "Axes | None" = None) -> "Figure":
    """Draws the number of units of each group over the training steps.

    A row for each group, from the data at the bottom to the loss in natural order of names. Its
    line is as high as the group is wide, relative to the widest that any was; triangles point up
    where it grew and down where it shrank, with the new number. Steps at which a group was at the
    cut lie on a red band. Beyond 24 groups only those are drawn that changed or were at the cut.

    Args:
        record: `controller.record`.
        axes: matplotlib axes to draw on; a new figure by default.

    Returns:
        The matplotlib figure.

    Raises:
        ValueError: if the controller has not been called yet.
        ImportError: if matplotlib is missing (`pip install pfn_optax[plot]`).

    Example:
        >>> from pfn_optax.drawing import draw_widths
        >>> from pfn_optax.growth import Decision, GrowthRecord
        >>> grown = Decision(100, 5, ("waist",), {"waist": 7}, {}, 74, ("waist: 1 -> 8 units",))
        >>> record = GrowthRecord({"first": 16, "waist": 1}, (grown,))
        >>> draw_widths(record).savefig("widths.png")  # doctest: +SKIP
    """
    try:
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        from pfn_optax.drawing.shown import ShownFigure
    except ImportError as error:
        raise ImportError("draw_widths needs matplotlib: pip install 'pfn_optax[plot]'.") from error

    if not record.decisions:
        raise ValueError("there is no decision yet: call the controller first.")
    names = _shown(record)
    figure: Any
    if axes is None:
        height = min(11.0, 1.5 + 0.42 * len(names))
        figure = ShownFigure(figsize=(6.8, max(2.6, height)), layout="constrained")
        axes = figure.add_subplot()
    else:
        figure = axes.figure
    assert axes is not None

    steps = np.asarray([decision.step for decision in record.decisions])
    # What a decision finds was so since the one before.
    starts = np.asarray([min(0, steps[0]), *steps[:-1]])
    widest = max(max(widths[name] for name in names) for widths in record.architectures)
    for row, name in enumerate(names):
        for start, decision in zip(starts, record.decisions, strict=True):
            if name in decision.cut:
                axes.fill_betweenx(
                    [row, row + 0.9], start, decision.step, fc=_CUT, alpha=0.16, lw=0
                )
        _row(axes, record, name, row, 0.8 / widest, (starts[0], steps[-1]))
    axes.set_yticks(np.arange(len(names)) + 0.4, names, fontsize="small")
    axes.set_ylim(-0.15, len(names))
    axes.tick_params(axis="y", length=0)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.margins(x=0.06)
    axes.set_xlabel("step")
    handles = [
        Patch(fc=_CUT, alpha=0.16, label="at the cut"),
        Line2D([], [], color="black", marker="^", lw=0, ms=5, label="grown to"),
        Line2D([], [], color="black", marker="v", lw=0, ms=5, label="shrunk to"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=7.5, frameon=False)
    return figure


def _shown(record: "GrowthRecord") -> list[str]:
    """The groups to draw, the first one at the bottom."""
    names = list(record.initial)
    if len(names) <= _MOST_NAMES:
        return names
    met = {
        name
        for decision in record.decisions
        for name in (*decision.cut, *decision.grown, *decision.shrunk)
    }
    return [name for name in names if name in met] or names[:_MOST_NAMES]


def _row(
    axes: "Axes",
    record: "GrowthRecord",
    name: str,
    row: int,
    scale: float,
    ends: tuple[int, int],
) -> None:
    """One group: its widths as a staircase on the line of its row."""
    widths = [architecture[name] for architecture in record.architectures]
    times = [ends[0], *(change.step for change in record.changes), ends[1]]
    heights = row + scale * np.asarray([*widths, widths[-1]])
    axes.fill_between(times, row, heights, step="post", fc="0.85", lw=0)
    axes.step(times, heights, where="post", color="0.25", lw=1)
    axes.annotate(
        str(widths[0]),
        (times[0], row + scale * widths[0]),
        xytext=(-3, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=6.5,
        color="0.3",
    )
    for change, before, after in zip(record.changes, widths, widths[1:], strict=False):
        if before != after:
            place = (change.step, row + scale * after)
            axes.plot(*place, "^" if after > before else "v", color="black", ms=4.5, zorder=4)
            axes.annotate(
                str(after),
                place,
                xytext=(4, 2),
                textcoords="offset points",
                fontsize=7,
                zorder=5,
            )
