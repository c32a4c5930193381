"""A snapshot as a picture: bands, the parts of the network that fold, and where nodes stand.

Both renderings, the figure and the page, start from here.
"""

import functools
import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pfn_optax.drawing.bands import Band, bands_of, merged
from pfn_optax.paths import natural_key
from pfn_optax.report import Snapshot

MOST_LAYERS = 40  # bands of layers in one picture; deeper networks are folded
_SHORTEST_RUN = 3  # bands in series that fold


@dataclass(frozen=True)
class Picture:
    """Everything that is drawn.

    A *part* is a piece of the network with one way in and one way out: a module, or a run of bands
    in series. It may be folded into one band.

    Attributes:
        bands: the bands of their own, then one for each part.
        modules: indices of the parts that are modules, the outermost first.
        folded: indices of the parts that are drawn as one band.
        depths: for each node, its longest distance from the loss.
        lanes: for each node, where it stands from left (-) to right (+).
        source: name of the loss node.
        sink: name of the data node.
    """

    bands: tuple[Band, ...]
    modules: tuple[int, ...]
    folded: frozenset[int]
    depths: dict[str, int]
    lanes: dict[str, float]
    source: str
    sink: str

    @functools.cached_property
    def shown(self) -> tuple[int, ...]:
        """Indices of the bands that are drawn: the outermost folds, and those outside all folds."""
        parts = [self.bands[part].members for part in self.folded]
        return tuple(
            index
            for index, band in enumerate(self.bands)
            if (index in self.folded or not band.members)
            and not any(self.members(index) < part for part in parts)
        )

    @functools.cached_property
    def open_modules(self) -> tuple[int, ...]:
        """Indices of the modules that are not drawn as one band, the outermost first."""
        shown = [self.members(index) for index in self.shown]
        is_open = (any(part < self.bands[m].members for part in shown) for m in self.modules)
        return tuple(itertools.compress(self.modules, is_open))

    @functools.cached_property
    def rows(self) -> dict[str, int]:
        """The row of each node that a drawn band ends at, from the loss (0) downwards."""
        ends = {node for i in self.shown for node in (self.bands[i].tail, self.bands[i].head)}
        ends |= {self.source, self.sink}
        row = {depth: n for n, depth in enumerate(sorted({self.depths[node] for node in ends}))}
        return {node: row[self.depths[node]] for node in sorted(ends)}

    def members(self, index: int) -> frozenset[int]:
        """Returns the bands of their own that a part stands for, or the band itself."""
        return self.bands[index].members or frozenset((index,))

    def modules_around(self, index: int) -> tuple[int, ...]:
        """Returns the modules that a band or a part lies in, the outermost first."""
        own = self.members(index)
        return tuple(module for module in self.modules if own < self.bands[module].members)

    def label(self, index: int) -> str:
        """Returns the name of a band without the path of the module that is marked around it."""
        around = self.modules_around(index)
        name = self.bands[index].name
        return name.removeprefix(f"{self.bands[around[-1]].name}/") if around else name


def picture_of(known: Snapshot, *, fold: bool = True) -> Picture:
    """Turns a snapshot into a picture.

    Args:
        known: the state and its graph.
        fold: whether to draw the groups of units of one value as one node and, in a deep network,
            modules and runs of layers away from the cut as one band.

    Returns:
        The picture.
    """
    bands = bands_of(known, fold=fold)
    network, nodes = known.bound.network, known.bound.nodes
    source, sink = nodes[network.source], nodes[network.sink]
    depths = _depths(bands, source, sink)
    modules = _modules(bands, {source, sink})
    first = len(bands)
    picture = Picture(
        bands=(*bands, *modules),
        modules=tuple(range(first, first + len(modules))),
        folded=frozenset(),
        depths=depths,
        lanes=_lanes(bands, depths),
        source=source,
        sink=sink,
    )
    return _fold_runs(_fold_modules(picture)) if fold else picture


def _num_layers(picture: Picture) -> int:
    return sum(not picture.bands[index].is_identity for index in picture.shown)


def _fold_modules(picture: Picture) -> Picture:
    """Folds modules away from the cut, the innermost first, until few enough bands are left."""
    heights: dict[int, int] = {}
    for module in reversed(picture.modules):
        inside = [h for m, h in heights.items() if picture.members(m) < picture.members(module)]
        heights[module] = 1 + max(inside, default=0)
    for height in sorted(set(heights.values())):
        if _num_layers(picture) <= MOST_LAYERS:
            break
        folds = {m for m, h in heights.items() if h == height and not picture.bands[m].num_cut}
        picture = replace(picture, folded=picture.folded | folds)
    return picture


def _fold_runs(picture: Picture) -> Picture:
    """Folds runs of bands in series that are neither full nor in the cut, if there are too many."""
    if _num_layers(picture) <= MOST_LAYERS:
        return picture
    leaving, entering = defaultdict(list), defaultdict(list)
    for index in picture.shown:
        leaving[picture.bands[index].tail].append(index)
        entering[picture.bands[index].head].append(index)

    def may_fold(index: int) -> bool:
        band = picture.bands[index]
        return not (band.is_identity or band.num_cut or band.saturation == 1)

    def follower(index: int) -> int | None:
        node = picture.bands[index].head
        if len(leaving[node]) == len(entering[node]) == 1 and node != picture.sink:
            after = leaving[node][0]
            is_sibling = picture.modules_around(after) == picture.modules_around(index)
            return after if may_fold(after) and is_sibling else None
        return None

    candidates = [index for index in picture.shown if may_fold(index)]
    followers = {index: after for index in candidates if (after := follower(index)) is not None}
    parts = []
    for index in sorted(set(candidates) - set(followers.values())):
        run = [index]
        while run[-1] in followers:
            run.append(followers[run[-1]])
        if len(run) >= _SHORTEST_RUN:
            near, far = picture.bands[run[0]], picture.bands[run[-1]]
            members = frozenset().union(*map(picture.members, run))
            name = f"{far.name} … {picture.label(run[0])}"
            parts.append(merged(picture.bands, members, name, (near.tail, far.head)))
    new = range(len(picture.bands), len(picture.bands) + len(parts))
    return replace(picture, bands=(*picture.bands, *parts), folded=picture.folded | set(new))


def _modules(bands: tuple[Band, ...], terminals: set[str]) -> list[Band]:
    """The modules with one way in and one way out, nested in each other or apart."""
    prefixes = defaultdict(set)
    for index, band in enumerate(bands):
        parts = band.name.split("/")
        if not band.is_identity:
            for length in range(1, len(parts)):
                prefixes["/".join(parts[:length])].add(index)
    found: dict[frozenset[int], Band] = {}
    for name in sorted(prefixes, key=lambda name: natural_key((name,))):
        if len({bands[index].name for index in prefixes[name]}) > 1:
            members = _with_skips(bands, prefixes[name])
            if ends := _way_through(bands, members, terminals):
                # Of a module within a module that holds nothing else, the inner one: it says more.
                found[members] = merged(bands, members, name, ends)
    nested: list[Band] = []
    for module in sorted(found.values(), key=lambda band: -len(band.members)):
        overlaps = (module.members & other.members for other in nested)
        if all(common in (frozenset(), module.members) for common in overlaps):
            nested.append(module)
    return nested


def _with_skips(bands: tuple[Band, ...], members: set[int]) -> frozenset[int]:
    """The bands of a module and the identities that begin and end in it."""
    nodes = {node for index in members for node in (bands[index].tail, bands[index].head)}
    return frozenset(members).union(
        index
        for index, band in enumerate(bands)
        if band.is_identity and band.tail in nodes and band.head in nodes
    )


def _way_through(
    bands: tuple[Band, ...], members: frozenset[int], terminals: set[str]
) -> tuple[str, str] | None:
    """The nodes at which flow enters and leaves some bands, if there is one of each."""
    tails = {bands[index].tail for index in members}
    heads = {bands[index].head for index in members}
    outside = terminals.union(
        node
        for index, band in enumerate(bands)
        if index not in members
        for node in (band.tail, band.head)
    )
    border = (tails | heads) & outside
    entries, exits = border - heads, border - tails
    if len(border) == 2 and len(entries) == len(exits) == 1:
        return entries.pop(), exits.pop()
    return None


def _depths(bands: Iterable[Band], source: str, sink: str) -> dict[str, int]:
    """Longest distance from the source; edges that close a cycle stop counting after n rounds."""
    depths = dict.fromkeys(
        [source, *(node for band in bands for node in (band.tail, band.head)), sink], 0
    )
    for _ in range(len(depths)):
        before = dict(depths)
        for band in bands:
            if band.head not in (source, band.tail):
                longer = max(depths[band.head], depths[band.tail] + 1)
                depths[band.head] = min(len(depths), longer)
        if depths == before:
            break
    depths[sink] = max(depths.values(), default=0)
    return depths


def _lanes(bands: tuple[Band, ...], depths: dict[str, int]) -> dict[str, float]:
    """Spreads the nodes of one depth, each near the nodes that its flow comes from."""
    levels, above = defaultdict(list), defaultdict(list)
    for node, depth in depths.items():
        levels[depth].append(node)
    for band in bands:
        above[band.head].append(band.tail)
    lanes: dict[str, float] = {}

    def place(node: str) -> tuple[float, tuple]:
        known = [lanes[tail] for tail in above[node] if tail in lanes]
        return sum(known) / max(1, len(known)), natural_key((node,))

    for depth in sorted(levels):
        row = sorted(levels[depth], key=place)
        lanes |= {node: lane - (len(row) - 1) / 2 for lane, node in enumerate(row)}
    return lanes
