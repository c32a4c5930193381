"""What a monitor recorded as a picture: depth by time."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pfn_optax.propagation import History

_MAX_NAMES = 24


def draw_history(history: "History", measure: str, *, axes: "Axes | None" = None) -> "Figure":
    """Draws a measure of all layers (from the data at the bottom to the loss) over the steps.

    Colours are logarithmic where all values are positive and span more than a factor of 30. What is
    not finite stays grey.

    Args:
        history: what `propagation_history` or `activation_history` returned.
        measure: one of its values.
        axes: matplotlib axes to draw on; a new figure by default.

    Returns:
        The matplotlib figure.

    Raises:
        ValueError: if there is no such measure, or no record.
        ImportError: if matplotlib is missing (`pip install pfn_optax[plot]`).

    Example:
        >>> import numpy as np
        >>> from pfn_optax.drawing import draw_history
        >>> from pfn_optax.propagation import History
        >>> history = History(np.arange(3), ("a", "b"), {"gradient_norm": np.ones((3, 2))})
        >>> draw_history(history, "gradient_norm").savefig("depth.png")  # doctest: +SKIP
    """
    try:
        from matplotlib.colors import LogNorm

        from pfn_optax.drawing.shown import ShownFigure
    except ImportError as error:
        raise ImportError(
            "draw_history needs matplotlib: pip install 'pfn_optax[plot]'."
        ) from error

    if measure not in history.values:
        raise ValueError(f"no measure {measure!r}; there are {', '.join(history.values)}.")
    if not len(history.steps):
        raise ValueError("there is no record yet: train for `every` steps first.")
    values = np.asarray(history.values[measure], float).T
    known = values[np.isfinite(values)]
    is_wide = known.size > 0 and known.min() > 0 and known.max() > 30 * known.min()
    figure: Any
    if axes is None:
        height = min(9.0, 1.6 + 0.22 * len(values))
        figure = ShownFigure(figsize=(6.4, max(3.0, height)), layout="constrained")
        axes = figure.add_subplot()
    else:
        figure = axes.figure
    assert axes is not None

    axes.set_facecolor("0.85")
    image = axes.pcolormesh(
        np.arange(len(history.steps) + 1),
        np.arange(len(values) + 1),
        np.ma.masked_invalid(values),
        norm=LogNorm(known.min(), known.max()) if is_wide else None,
        cmap="viridis",
    )
    figure.colorbar(image, ax=axes, label=measure.replace("_", " "))
    shown = np.unique(np.linspace(0, len(values) - 1, min(len(values), _MAX_NAMES)).astype(int))
    axes.set_yticks(shown + 0.5, [history.layers[index] for index in shown], fontsize="small")
    times = np.unique(np.linspace(0, len(history.steps) - 1, 6).astype(int))
    axes.set_xticks(times + 0.5, [str(history.steps[index]) for index in times])
    axes.set_xlabel("step")
    return figure
