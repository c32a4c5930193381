"""The flow network as a picture: flow as width, saturation as colour, the cut marked."""

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.flow import max_flow
from pfn_optax.report import Snapshot, snapshot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROWS_PER_COLUMN = 16
_WIDEST = 13.0  # points, the edge with the largest flow
_COLUMN = 4.0  # data units between columns; rows are one unit apart


class _Link(NamedTuple):
    """All parallel edges of one layer between two nodes, added up."""

    tail: int
    head: int
    label: str
    flow: float
    capacity: float
    num_cut: int
    num_blocks: int

    @property
    def saturation(self) -> float:
        if not np.isfinite(self.capacity):
            return 0.0
        return min(1.0, self.flow / self.capacity) if self.capacity > 0 else 1.0


def draw_flow(
    state: Any, params: Any, *, axes: "Axes | None" = None, **layout_options: Any
) -> "Figure":
    """Draws the flow network at the last diagnosis, from the loss (top) to the data (bottom).

    Each layer is a band: the width of the coloured core is its flow, the pale band around it what
    its capacity would still take, the colour its saturation (flow / capacity). Layers with blocks
    in the cut are marked with a dashed red line across and their number of cut blocks. Deep
    networks are continued in further columns.

    Args:
        state: an optimizer state with a `PFNState` somewhere in it.
        params: the parameter tree; only names and shapes are read.
        axes: matplotlib axes to draw on; a new figure of fitting size by default.
        **layout_options: `block_size`, `num_blocks`, `output_axis`, `graph`, as given to `pfn`.

    Returns:
        The matplotlib figure.

    Raises:
        ValueError: if no single `PFNState` is found, or it does not fit the parameters.
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
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("draw_flow needs matplotlib: pip install 'pfn_optax[plot]'.") from error

    known = snapshot(state, params, **layout_options)
    links = _links(known)
    depth = _depths(known, links)
    columns = _columns(depth, links)
    figure: Any
    if axes is None:
        rows = max(stop - start for start, stop in columns)
        figure = Figure(figsize=(1.6 + 3.4 * len(columns), 1.6 + 0.52 * rows), layout="constrained")
        axes = figure.add_subplot()
    else:
        figure = axes.figure
    assert axes is not None

    places = _places(known, depth, columns)
    colours = colormaps["viridis_r"]
    largest = max([link.flow for link in links if np.isfinite(link.flow)] or [0.0]) or 1.0
    bends = _bends(links, depth)
    for link, bend in zip(links, bends, strict=True):
        _draw_link(axes, link, bend, places, depth, columns, colours, largest)
    for node, column in places:
        x, y = places[node, column]
        name = known.bound.nodes[node]
        is_end = node in (known.bound.network.source, known.bound.network.sink)
        axes.plot(x, y, "o", ms=7 if is_end else 4, color="black", zorder=4)
        if is_end:
            above = node == known.bound.network.source
            axes.annotate(
                name,
                (x, y),
                xytext=(0, 9 if above else -9),
                textcoords="offset points",
                ha="center",
                va="bottom" if above else "top",
                weight="bold",
            )
    _finish(axes, figure, known, places, colours)
    return figure


def _links(known: Snapshot) -> list[_Link]:
    bound, capacities = known.bound, known.state.pfn_capacities
    block = bound.edge_block
    is_layer = block >= 0
    on_edges = np.where(is_layer, np.append(capacities, 0)[block], bound.identity_capacity)
    result = jax.device_get(max_flow(bound.network, jnp.asarray(on_edges), return_flow=True))
    cut = is_layer & np.append(known.state.pfn_cut, False)[block]
    block_layer = np.append(known.layout.block_layer, -1)
    groups = defaultdict(list)
    ends = zip(bound.network.tails, bound.network.heads, strict=True)
    for edge, (tail, head) in enumerate(ends):
        groups[tail, head, int(block_layer[block[edge]]) if is_layer[edge] else -1].append(edge)
    return [
        _Link(
            tail=tail,
            head=head,
            label=known.layout.layers[layer].name if layer >= 0 else "skip",
            flow=float(np.sum(result.flow[edges])),
            capacity=float(np.sum(on_edges[edges])),
            num_cut=int(cut[edges].sum()),
            num_blocks=len(edges),
        )
        for (tail, head, layer), edges in groups.items()
    ]


def _depths(known: Snapshot, links: list[_Link]) -> np.ndarray:
    """Longest distance from the source; edges that close a cycle stop counting after n rounds."""
    num_nodes = known.bound.network.num_nodes
    depth = np.zeros(num_nodes, int)
    for _ in range(num_nodes):
        before = depth.copy()
        for link in links:
            if link.head != known.bound.network.source:
                depth[link.head] = min(num_nodes, max(depth[link.head], depth[link.tail] + 1))
        if (depth == before).all():
            break
    sink = known.bound.network.sink
    depth[sink] = max(depth[sink], depth.max())
    return np.unique(depth, return_inverse=True)[1]


def _columns(depth: np.ndarray, links: list[_Link]) -> list[tuple[int, int]]:
    """Splits the depths into columns at depths that one node holds alone and no edge passes by."""
    last = int(depth.max(initial=0))
    is_passed = np.zeros(last + 1, bool)
    for link in links:
        low, high = sorted((depth[link.tail], depth[link.head]))
        is_passed[low + 1 : high] = True
    splits = [d for d in range(1, last) if not is_passed[d] and (depth == d).sum() == 1]
    columns, start = [], 0
    num_columns = -(-last // _ROWS_PER_COLUMN)
    while num_columns > 1 and last - start > _ROWS_PER_COLUMN:
        wanted = start + -(-(last - start) // (num_columns - len(columns)))
        ahead = [d for d in splits if start + 2 <= d <= start + _ROWS_PER_COLUMN]
        if not ahead or len(columns) == num_columns - 1:
            break
        split = min(ahead, key=lambda d: abs(d - wanted))
        columns.append((start, split))
        start = split
    return [*columns, (start, last)]


def _places(
    known: Snapshot, depth: np.ndarray, columns: list[tuple[int, int]]
) -> dict[tuple[int, int], tuple[float, float]]:
    """(node, column) -> (x, y); the node at which a column ends stands in the next one as well."""
    places = {}
    for column, (start, stop) in enumerate(columns):
        for d in range(start, stop + 1):
            nodes = np.flatnonzero(depth == d)
            for lane, node in enumerate(nodes):
                x = column * _COLUMN + (lane - (len(nodes) - 1) / 2) * min(1.6, 4 / len(nodes))
                places[int(node), column] = (x, float(start - d))
    return places


def _bends(links: list[_Link], depth: np.ndarray) -> list[float]:
    """How far each edge bows out: none for one edge between neighbours, more for skips."""
    seen: dict[tuple[int, int], int] = defaultdict(int)
    bends = []
    for link in links:
        span = abs(int(depth[link.head] - depth[link.tail]))
        twin = seen[link.tail, link.head]
        seen[link.tail, link.head] += 1
        side = -1 if twin % 2 else 1
        bends.append(0.0 if span <= 1 and not twin else side * (0.35 + 0.12 * span + 0.3 * twin))
    return bends


def _draw_link(axes, link, bend, places, depth, columns, colours, largest) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    low = min(depth[link.tail], depth[link.head])
    column = next(
        i for i, (start, stop) in enumerate(columns) if start <= low < stop or start == stop
    )
    (x0, y0), (x1, y1) = places[link.tail, column], places[link.head, column]
    middle = ((x0 + x1) / 2 - bend, (y0 + y1) / 2)
    path = Path([(x0, y0), (2 * middle[0] - (x0 + x1) / 2, middle[1]), (x1, y1)], [1, 3, 3])

    def band(width, colour, order, **style):
        axes.add_patch(
            PathPatch(path, fill=False, lw=width, ec=colour, capstyle="butt", zorder=order, **style)
        )

    width = 1.0 + (_WIDEST - 1.0) * min(1.0, link.flow / largest)
    if np.isfinite(link.capacity):
        spare = (_WIDEST - 1.0) * (link.capacity - link.flow) / largest
        band(width + min(max(spare, 0.0), 1.5 * _WIDEST), "0.88", 1)
        band(width, colours(link.saturation), 2)
    else:
        band(1.5, "0.5", 2, linestyle=(0, (4, 2)))  # an identity without bound
    if link.num_cut:
        axes.plot(
            [middle[0] - 0.3, middle[0] + 0.3],
            [middle[1]] * 2,
            "--",
            color="crimson",
            lw=2,
            zorder=5,
        )
    blocks = f"  ({link.num_cut}/{link.num_blocks} cut)" if link.num_cut else ""
    axes.annotate(
        f"{_shorten(link.label)}{blocks}\n{link.flow:.3g} of {link.capacity:.3g}",
        middle,
        xytext=(26 if bend <= 0 else -12, 0),
        textcoords="offset points",
        ha="left" if bend <= 0 else "right",
        va="center",
        fontsize=7.5,
        linespacing=1.05,
        color="crimson" if link.num_cut else "black",
        weight="bold" if link.num_cut else "normal",
        zorder=6,
    )


def _shorten(name: str, length: int = 30) -> str:
    return name if len(name) <= length else f"{name[: length // 2 - 1]}…{name[-length // 2 :]}"


def _finish(axes, figure, known: Snapshot, places, colours) -> None:
    from matplotlib.cm import ScalarMappable

    xs, ys = zip(*places.values(), strict=True)
    axes.set_xlim(min(xs) - 1.2, max(xs) + 2.8)
    axes.set_ylim(min(ys) - 0.8, max(ys) + 0.8)
    axes.axis("off")
    state = known.state
    kind = "unique" if state.pfn_unique else "one of several"
    proof = f"{kind} minimum cut" if state.pfn_certified else "not certified"
    axes.set_title(
        f"step {int(state.pfn_step)}\nmaximum flow {float(state.pfn_flow):.4g}, {proof}",
        fontsize=10,
    )
    figure.colorbar(
        ScalarMappable(cmap=colours),
        ax=axes,
        label="saturation (flow / capacity)",
        shrink=0.6,
        pad=0.02,
    )
