"""The phase diagram of an activation as a picture."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.propagation.critical import critical_line
from pfn_optax.propagation.mean_field import MeanField, MeanFieldStatus, mean_field

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DEEPEST = 300.0  # layers, the end of the colour scale
_LINE = "crimson"
_MARKERS = "oDs^vP*X"


def draw_phase_diagram(
    activation: Any,
    *,
    weight_variance: tuple[float, float] = (0.1, 4.0),
    bias_variance: tuple[float, float] = (0.0, 0.5),
    marks: Mapping[str, tuple[float, float]] | None = None,
    resolution: int = 40,
    axes: "Axes | None" = None,
) -> "Figure":
    """Draws how deep signals reach, over the variances of weights and biases at initialisation.

    Colour is the depth scale of correlations, xi_c in layers: near the critical line (red), where
    the ordered phase meets the chaotic one, it is without bound. Hatched is where the variance of
    the preactivations grows without bound.

    Args:
        activation: a JAX function of one number.
        weight_variance: the range of sigma_w^2, the weights' variance times fan-in.
        bias_variance: the range of sigma_b^2.
        marks: initialisations to mark, (sigma_w^2, sigma_b^2) by name, as (1, 0) for LeCun's and
            (2, 0) for He's.
        resolution: number of points along either side, 4 at least.
        axes: matplotlib axes to draw on; a new figure by default.

    Returns:
        The matplotlib figure.

    Raises:
        ValueError: if a range is empty or negative, there are too few points or too many marks, or
            the activation is not elementwise.
        ImportError: if matplotlib is missing (`pip install pfn_optax[plot]`).

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.drawing import draw_phase_diagram
        >>> figure = draw_phase_diagram(jnp.tanh, marks={"LeCun": (1, 0)}, resolution=4)
        >>> figure.savefig("phases.png")  # doctest: +SKIP
    """
    try:
        from pfn_optax.drawing.shown import ShownFigure
    except ImportError as error:
        raise ImportError(
            "draw_phase_diagram needs matplotlib: pip install 'pfn_optax[plot]'."
        ) from error

    marks = marks or {}
    for name, (low, high) in (
        ("weight_variance", weight_variance),
        ("bias_variance", bias_variance),
    ):
        if not 0 <= low < high < float("inf"):
            raise ValueError(f"{name} must be a range from 0 upwards, got {low} to {high}.")
    if resolution < 4:
        raise ValueError(f"resolution must be at least 4, got {resolution}.")
    if len(marks) > len(_MARKERS):
        raise ValueError(f"at most {len(_MARKERS)} marks can be told apart, got {len(marks)}.")
    figure: Any
    if axes is None:
        figure = ShownFigure(figsize=(6.4, 4.4), layout="constrained")
        axes = figure.add_subplot()
    else:
        figure = axes.figure
    assert axes is not None

    weights = np.linspace(*weight_variance, resolution)
    biases = np.linspace(*bias_variance, resolution)
    _draw_depth(axes, _field(activation, weights, biases), weights, biases)
    # Denser towards 0, where the line is steep.
    finer = bias_variance[0] + np.ptp(bias_variance) * np.linspace(0, 1, 2 * resolution) ** 2
    _draw_line(axes, activation, finer, weight_variance)
    for marker, (name, place) in zip(_MARKERS, marks.items(), strict=False):
        style = {"ls": "none", "mfc": "white", "mec": "black", "ms": 8, "clip_on": False}
        axes.plot(*place, marker, label=name, zorder=5, **style)
    axes.set(
        xlabel=r"$\sigma_w^2$, variance of weights × fan-in",
        ylabel=r"$\sigma_b^2$, variance of biases",
        xlim=weight_variance,
        ylim=bias_variance,
    )
    if axes.get_legend_handles_labels()[0]:
        figure.legend(
            *axes.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False
        )
    return figure


def _field(activation: Any, weights: np.ndarray, biases: np.ndarray) -> MeanField:
    """One point after the other: side by side, all would take as long as the hardest."""
    pairs = jnp.stack(jnp.meshgrid(jnp.asarray(weights), jnp.asarray(biases)), -1).reshape(-1, 2)
    found = jax.jit(lambda pairs: jax.lax.map(lambda pair: mean_field(activation, *pair), pairs))(
        pairs
    )
    shape = (len(biases), len(weights))
    return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(shape), found)


def _draw_depth(axes: "Axes", found: MeanField, weights: np.ndarray, biases: np.ndarray) -> None:
    from matplotlib.colors import LogNorm

    depth = np.clip(np.nan_to_num(found.xi_c, nan=np.nan, posinf=_DEEPEST), 0.3, _DEEPEST)
    image = axes.pcolormesh(
        weights, biases, depth, norm=LogNorm(1, _DEEPEST), cmap="viridis", shading="gouraud"
    )
    bar = axes.figure.colorbar(image, ax=axes, extend="both")
    bar.set_label(r"depth scale $\xi_c$, layers")
    axes.set_facecolor("0.9")
    chi_1 = np.asarray(found.chi_1)
    is_unbounded = np.asarray(found.status) == MeanFieldStatus.UNBOUNDED
    if is_unbounded.any():
        area = is_unbounded.astype(float)
        axes.contourf(weights, biases, area, levels=[0.5, 1.5], colors="0.9", hatches=["///"])
    for name, is_inside in {
        "ordered": (chi_1 < 1) & ~is_unbounded,
        "chaotic": (chi_1 > 1) & ~is_unbounded,
        "variance grows\nwithout bound": is_unbounded,
    }.items():
        if is_inside.mean() > 0.05:  # else there is no room for the word
            x, y = _inmost(is_inside)
            axes.text(
                weights[x],
                biases[y],
                name,
                ha="center",
                va="center",
                color="black",
                bbox={"fc": "white", "ec": "none", "alpha": 0.7, "boxstyle": "round"},
            )


def _draw_line(axes: "Axes", activation: Any, biases: np.ndarray, shown: tuple[Any, ...]) -> None:
    """The critical line; where it is a single point (ReLU), a cross."""
    found = jax.vmap(lambda value: critical_line(activation, value))(jnp.asarray(biases))
    line = np.asarray(found.weight_variance)
    inside = (line >= shown[0]) & (line <= shown[1])
    if inside.sum() == 1:
        style = {"ls": "none", "color": _LINE, "ms": 12, "mew": 3, "clip_on": False}
        axes.plot(line[inside], biases[inside], "x", zorder=4, label="critical point", **style)
    elif inside.any():
        axes.plot(line, biases, color=_LINE, lw=2, zorder=4, label=r"critical, $\chi_1 = 1$")


def _inmost(is_inside: np.ndarray) -> tuple[int, int]:
    """The place (column, row) furthest from any outside, by peeling off one rim after another."""
    left = is_inside
    while left.any():
        last, padded = left, np.pad(left, 1)
        left = (
            padded[1:-1, 1:-1]
            & padded[:-2, 1:-1]
            & padded[2:, 1:-1]
            & padded[1:-1, :-2]
            & padded[1:-1, 2:]
        )
    rows, columns = np.nonzero(last)
    middle = len(rows) // 2
    return int(columns[middle]), int(rows[middle])
