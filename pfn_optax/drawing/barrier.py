"""Loss along the line between two models as a picture."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pfn_optax.align import Curve

# Distinguishable with any colour vision (Okabe & Ito 2008).
_COLOURS = ("#555555", "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7")
_STYLES = ("-", "--", ":", "-.")


def draw_barrier(
    curves: "Mapping[str, Mapping[str, Curve]]",
    *,
    metric: str | None = None,
    axes: "Axes | None" = None,
) -> "Figure":
    """Draws the loss, or another metric, along the line between two models.

    Colours tell the lines apart (naive, aligned, ...), strokes the data sets.

    Args:
        curves: what `loss_barrier` returned, under a name for each line.
        metric: name of the metric to draw; the loss by default.
        axes: matplotlib axes to draw on; a new figure by default.

    Returns:
        The matplotlib figure.

    Raises:
        ValueError: if there is no curve, there are more lines than colours or more data sets than
            strokes, or a curve lacks the metric.
        ImportError: if matplotlib is missing (`pip install pfn_optax[plot]`).

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.align import loss_barrier
        >>> from pfn_optax.drawing import draw_barrier
        >>> def loss(w, x):
        ...     return ((x - abs(w)) ** 2).mean()
        >>> curves = loss_barrier(loss, -jnp.ones(()), jnp.ones(()), {"train": [(jnp.ones(4),)]})
        >>> draw_barrier({"naive": curves}).savefig("barrier.png")  # doctest: +SKIP
    """
    try:
        from pfn_optax.drawing.shown import ShownFigure
    except ImportError as error:
        raise ImportError(
            "draw_barrier needs matplotlib: pip install 'pfn_optax[plot]'."
        ) from error

    names = list(dict.fromkeys(name for own in curves.values() for name in own))
    if not names:
        raise ValueError("curves is empty: pass what loss_barrier() returned, under a name.")
    if len(curves) > len(_COLOURS) or len(names) > len(_STYLES):
        raise ValueError(
            f"at most {len(_COLOURS)} lines on {len(_STYLES)} data sets can be told apart; got "
            f"{len(curves)} on {len(names)}."
        )
    figure: Any
    if axes is None:
        figure = ShownFigure(figsize=(5.6, 3.8), layout="constrained")
        axes = figure.add_subplot()
    else:
        figure = axes.figure
    assert axes is not None

    for colour, (label, own) in zip(_COLOURS, curves.items(), strict=False):
        for name, curve in own.items():
            if metric is not None and metric not in curve.metrics:
                raise ValueError(
                    f"the curve {label!r} on {name!r} has no metric {metric!r}; it has "
                    f"{', '.join(curve.metrics) or 'none'}."
                )
            values = curve.losses if metric is None else curve.metrics[metric]
            style = _STYLES[names.index(name)]
            axes.plot(curve.points, values, style, color=colour, label=f"{label}, {name}")
    axes.set(xlabel="t, from a (0) to b (1)", ylabel=metric or "loss", xlim=(0, 1))
    axes.grid(alpha=0.25)
    axes.legend(fontsize="small")
    return figure
