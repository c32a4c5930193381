"""The picture by matplotlib."""

from typing import TYPE_CHECKING, Any

import numpy as np

from pfn_optax.drawing.bands import Band, stretch_of
from pfn_optax.drawing.layout import Area, Caption, Layout, Stroke, layout_of
from pfn_optax.drawing.picture import Picture, picture_of
from pfn_optax.report import cut_report, snapshot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW = 0.52  # inches between two rows
_WIDEST = 13.0  # points, the layer with the largest flow
_CUT = "crimson"


def draw_flow(
    state: Any,
    params: Any,
    *,
    axes: "Axes | None" = None,
    fold: bool = True,
    **layout_options: Any,
) -> "Figure":
    """Draws the flow network at the last diagnosis, from the loss (top) to the data (bottom).

    Each layer is a band: the width of the coloured core is its flow, the pale band around it what
    its capacity would still take, the colour its saturation (flow / capacity). Layers with blocks
    in the cut are marked with a dashed red line across and their number of cut blocks. The shaded
    areas are modules. Deep networks are continued in further columns, and folded: beyond 40 layers,
    modules and runs of layers away from the cut become one band, coloured by its fullest layer.

    Args:
        state: an optimizer state with a `PFNState` somewhere in it.
        params: the parameter tree; only names and shapes are read.
        axes: matplotlib axes to draw on; a new figure of fitting size by default.
        fold: False draws every layer and, of a unit graph, every group of units: for small
            networks.
        **layout_options: `block_size`, `num_blocks`, `output_axis`, `capacity`, `graph`, as given
            to `pfn`.

    Returns:
        The matplotlib figure.

    Raises:
        ValueError: if no single `PFNState` is found, or it does not fit the parameters or options.
        ImportError: if matplotlib is missing (`pip install pfn_optax[plot]`).

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from pfn_optax import draw_flow, pfn
        >>> optimizer = pfn(capacity="norm", every=1)
        >>> params = {"layer0": {"w": jnp.ones((3, 4))}, "layer1": {"w": jnp.ones((4, 1))}}
        >>> _, state = optimizer.update(params, optimizer.init(params), params)
        >>> draw_flow(state, params).savefig("flow.png")  # doctest: +SKIP
    """
    try:
        from pfn_optax.drawing.shown import ShownFigure
    except ImportError as error:
        raise ImportError("draw_flow needs matplotlib: pip install 'pfn_optax[plot]'.") from error

    picture = picture_of(snapshot(state, params, **layout_options), fold=fold)
    layout = layout_of(picture)
    figure: Any
    if axes is None:
        width, height = max(_ROW * layout.width, 3.4), max(_ROW * (layout.height + 1.6), 2.6)
        figure = ShownFigure(figsize=(width + 1.2, height + 1.4), layout="constrained")
        axes = figure.add_subplot()
    else:
        figure = axes.figure
    assert axes is not None

    _Drawing(picture, layout, axes).draw()
    axes.set_title(cut_report(state, params, **layout_options).summary.replace("; ", "\n"))
    axes.title.set_fontsize(10)
    return figure


class _Drawing:
    """A picture on its way onto axes: what all its strokes share."""

    def __init__(self, picture: Picture, layout: Layout, axes: "Axes"):
        from matplotlib import colormaps

        self.picture, self.layout, self.axes = picture, layout, axes
        self.colours = colormaps["viridis_r"]
        flows = (
            sum(picture.bands[index].flow for index in caption.bands) for caption in layout.captions
        )
        self.largest = max(flows, default=0.0) or 1.0

    def draw(self) -> None:
        """Draws modules, bands, captions and nodes, and what explains them."""
        self.axes.set_xlim(-0.1, self.layout.width)
        self.axes.set_ylim(self.layout.height + 0.8, -0.8)
        self.axes.axis("off")
        for area in self.layout.areas:
            self._area(area)
        for index, stroke in self.layout.strokes.items():
            self._band(self.picture.bands[index], stroke)
        for caption in self.layout.captions:
            self._caption(caption)
        for node, place in self.layout.dots:
            self._dot(node, place)
        self._legend()

    def _area(self, area: Area) -> None:
        from matplotlib.patches import Rectangle

        corner, height = (area.left, area.top + 0.08), area.bottom - area.top - 0.16
        patch = Rectangle(corner, area.right - area.left, height, fc="0.5", ec="none", alpha=0.07)
        self.axes.add_patch(patch)
        self.axes.text(
            area.left + 0.08,
            (area.top + area.bottom) / 2,
            _shorten(self.picture.label(area.module), int(8 * height)),
            rotation=90,
            va="center",
            fontsize=7.5,
            color="0.35",
        )

    def _band(self, band: Band, stroke: Stroke) -> None:
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path

        path = Path([stroke.start, stroke.corner, stroke.end], [1, 3, 3])

        def add(width, colour, order, **style):
            style = {"capstyle": "butt", "zorder": order, **style}
            self.axes.add_patch(PathPatch(path, fill=False, lw=width, ec=colour, **style))

        width = 1.0 + (_WIDEST - 1.0) * min(1.0, band.flow / self.largest)
        if band.is_identity and not np.isfinite(band.capacity):
            add(1.5, "0.5", 2, linestyle=(0, (4, 2)))
        else:
            room = band.flow / band.saturation if band.saturation else band.capacity
            spare = (_WIDEST - 1.0) * (room - band.flow) / self.largest
            add(width + min(max(spare, 0.0), 1.5 * _WIDEST * stroke.share), "0.84", 1)
            add(width, self.colours(band.saturation), 2)
        if band.num_cut:
            x, y = stroke.mark
            self.axes.plot([x - 0.45, x + 0.45], [y, y], "--", color=_CUT, lw=2, zorder=5)

    def _caption(self, caption: Caption) -> None:
        bands = [self.picture.bands[index] for index in caption.bands]
        is_cut = any(band.num_cut for band in bands)
        colour = _CUT if is_cut else "0.4" if bands[0].is_identity else "black"
        if caption.has_leader:
            mark = self.layout.strokes[caption.bands[0]].mark
            xs, ys = zip(mark, caption.at, strict=True)
            self.axes.plot(xs, ys, color="0.6", lw=0.6, zorder=3)
        self.axes.annotate(
            _words(self.picture, caption.bands),
            caption.at,
            ha="right" if caption.is_left else "left",
            va="center",
            fontsize=7.5,
            linespacing=1.05,
            color=colour,
            weight="bold" if is_cut else "normal",
            path_effects=_halo(),
            zorder=6,
        )

    def _dot(self, node: str, place: tuple[float, float]) -> None:
        is_end = node in (self.picture.source, self.picture.sink)
        self.axes.plot(*place, "o", ms=7 if is_end else 4, color="black", zorder=4)
        name = node if is_end else stretch_of(node)
        if name:
            above = node != self.picture.sink
            self.axes.annotate(
                name,
                place,
                xytext=(0, (9 if is_end else 3) * (1 if above else -1)),
                textcoords="offset points",
                ha="center",
                va="bottom" if above else "top",
                weight="bold" if is_end else "normal",
                fontsize=10 if is_end else 6,
                path_effects=_halo(),
                zorder=7,
            )

    def _legend(self) -> None:
        from matplotlib.cm import ScalarMappable
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        handles = [
            Line2D([], [], color=_CUT, lw=2, ls="--", label="in the minimum cut"),
            Patch(fc="0.84", label="capacity to spare"),
            Line2D([], [], color="0.5", lw=1.5, ls=(0, (4, 2)), label="skip without bound"),
        ]
        self.axes.legend(
            handles=handles,
            loc="upper center",
            bbox_to_anchor=(0.5, 0.0),
            ncols=2,
            fontsize=7.5,
            frameon=False,
        )
        self.axes.figure.colorbar(
            ScalarMappable(cmap=self.colours),
            ax=self.axes,
            label="saturation (flow / capacity)",
            shrink=0.6,
            pad=0.02,
        )


def _halo() -> list:
    """Keeps text legible where it lies on bands."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2, foreground="white")]


def _words(picture: Picture, indices: tuple[int, ...]) -> str:
    bands: list[Band] = [picture.bands[index] for index in indices]
    first = bands[0]
    flow = sum(band.flow for band in bands)
    capacity = sum(band.capacity for band in bands)
    if first.is_identity:
        return f"skip {flow:.3g}" + (f" of {capacity:.3g}" if np.isfinite(capacity) else "")
    name = _shorten(picture.label(indices[0]))
    if first.members:
        fullest = f"{flow:.3g}, at most {100 * first.saturation:.3g}% full"
        return f"{name}  ({len(first.layers)} layers)\n{fullest}"
    num_cut, num_blocks = (sum(getattr(b, f"num_{x}") for b in bands) for x in ("cut", "blocks"))
    cut = f"  ({num_cut}/{num_blocks} cut)" if num_cut else ""
    return f"{name}{cut}\n{flow:.3g} of {capacity:.3g}"


def _shorten(name: str, length: int = 30) -> str:
    return name if len(name) <= length else f"{name[: length // 2 - 1]}…{name[-length // 2 :]}"
