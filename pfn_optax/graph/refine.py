"""From a skeleton of layers to edges between groups of units.

The axes of a matrix that belong to a group of hidden units are cut into chunks of units. A node of
the skeleton becomes one node per chunk, a matrix one edge per sub-matrix, from the chunk that it
computes to the chunk that it reads. So a cut can run through several layers.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pfn_optax.graph.flow_graph import Edge
from pfn_optax.graph.skeleton import Skeleton
from pfn_optax.graph.sketch import Link, Use
from pfn_optax.grid import Chunks, GridLayer
from pfn_optax.partition import Partition, starts_of
from pfn_optax.paths import Path
from pfn_optax.units import UnitSpec


class Chunk(NamedTuple):
    """A run of the units of one group.

    Attributes:
        group: name of the group.
        start: its first unit.
        stop: the unit after its last.
    """

    group: str
    start: int
    stop: int


# None: everything that belongs to no group of hidden units (data, classes) stays in one piece.
Piece = Chunk | None

# Pieces of a matrix along its sides, by path and axis.
Pieces = Mapping[tuple[Path, int], Sequence[Piece]]


def grids(
    rows: Partition,
    skeleton: Skeleton,
    spec: UnitSpec,
    *,
    block_size: int | None,
    num_blocks: int | None,
) -> tuple[Partition, Pieces]:
    """Cuts the matrices of a skeleton along the groups of units.

    Args:
        rows: the partition of the parameters, for the names of the layers.
        skeleton: the skeleton, whose first use of a matrix tells its sides.
        spec: groups of units of the tree {"params": parameters, ...}.
        block_size: units per chunk.
        num_blocks: chunks per group.

    Returns:
        The partition into sub-matrices, and what each chunk of it is.
    """
    shapes = dict(spec.leaves)
    uses = {link.use.path: link.use for link in reversed(skeleton.links) if link.use}
    sides: dict[tuple[Path, int], list[tuple[int, np.ndarray, Chunk]]] = defaultdict(list)
    for group in spec.groups:
        starts = starts_of(group.size, block_size, num_blocks)
        stops = (*starts[1:], group.size)
        for member in group.members:
            units = member.start + np.arange(member.before * group.size * member.after).reshape(
                member.before, group.size, member.after
            )
            sides[member.path[1:], member.axis] += [
                (member.start, units[:, start:stop].ravel(), Chunk(group.name, start, stop))
                for start, stop in zip(starts, stops, strict=True)
            ]
    layers: list[GridLayer] = []
    pieces: dict[tuple[Path, int], list[Piece]] = {}
    first_block = 0
    for layer in rows.layers:
        if layer.path not in uses:
            continue
        shape = shapes["params", *layer.path]
        cut = []
        for axis in _cut_axes(uses[layer.path], shape, [a for p, a in sides if p == layer.path]):
            chunks, own = _chunks(axis, shape[axis], sides[layer.path, axis])
            pieces[layer.path, axis] = own
            cut.append(chunks)
        layers.append(GridLayer(layer.name, layer.path, shape, tuple(cut), first_block))
        first_block += layers[-1].num_blocks
    in_blocks = {"/".join(layer.path) for layer in layers}
    leaves = [*rows.unblocked, *("/".join(path) for path in rows.paths)]
    unblocked = tuple(name for name in leaves if name not in in_blocks)
    return Partition(tuple(layers), unblocked), pieces


def _cut_axes(use: Use, shape: tuple[int, ...], grouped: Sequence[int]) -> list[int]:
    """One axis at the most for what the matrix reads, and one for what it computes."""
    if use.in_axes is None or use.out_axes is None:
        return sorted(grouped)[:2]
    sides = ([a for a in axes if a in grouped] for axes in (use.in_axes, use.out_axes))
    return sorted(axes[0] for axes in sides if axes)


def _chunks(
    axis: int, size: int, stretches: Sequence[tuple[int, np.ndarray, Chunk]]
) -> tuple[Chunks, list[Piece]]:
    """The chunks of an axis; where groups overlap (heads x head size) the first one is taken."""
    labels = np.full(size, -1, np.int32)
    pieces: list[Piece] = []
    groups: dict[int, str] = {}
    for start, indices, piece in sorted(stretches, key=lambda stretch: stretch[0]):
        is_free = (labels[indices] < 0) | (groups.get(start) == piece.group)
        if is_free.all():
            groups[start] = piece.group
            labels[indices] = len(pieces)
            pieces.append(piece)
    if (labels < 0).any():
        labels[labels < 0] = len(pieces)
        pieces.append(None)
    is_one_group = len({piece.group for piece in pieces if piece}) == 1
    names = [_name(piece, is_one_group) if piece else "rest" for piece in pieces]
    return Chunks(axis, labels.tobytes(), tuple(names)), pieces


def _name(piece: Chunk, is_one_group: bool) -> str:
    units = f"{piece.start}:{piece.stop}"
    return units if is_one_group else f"{piece.group} {units}"


def refined(
    skeleton: Skeleton, names: Mapping[int, str], layout: Partition, pieces: Pieces
) -> tuple[Edge, ...]:
    """Draws the edges between the pieces of the nodes.

    Args:
        skeleton: the skeleton.
        names: name of each of its nodes.
        layout: the partition into sub-matrices.
        pieces: what the chunks of the partition are.

    Returns:
        The edges; sub-matrices between the same nodes stand on one.
    """
    pieces_of = _node_pieces(skeleton, layout, pieces)
    unit = math.gcd(*(link.positions for link in skeleton.links)) or 1

    def name(node: int, piece: Piece) -> str:
        if piece is None or node in (skeleton.source, skeleton.sink):
            return names[node]
        groups = {other.group for other in pieces_of[node] if other}
        return f"{names[node]}[{_name(piece, len(groups) == 1)}]"

    blocks: dict[tuple[str, str, str, int], list[int]] = defaultdict(list)
    edges: set[Edge] = set()
    for link in skeleton.links:
        positions = link.positions // unit
        if link.use is None:
            for tail, head, share in _identities(link, pieces_of):
                edges.add(
                    Edge(
                        name(link.tail, tail),
                        name(link.head, head),
                        width=link.width * share,
                        positions=positions,
                    )
                )
            continue
        layer = layout.grids[link.use.path]
        for number, (tail, head) in enumerate(_cells(layer, link.use, pieces)):
            for tail_piece in _matching(tail, pieces_of[link.tail]):
                for head_piece in _matching(head, pieces_of[link.head], otherwise=tail):
                    ends = name(link.tail, tail_piece), name(link.head, head_piece)
                    blocks[*ends, layer.name, positions].append(number)
    for (tail, head, layer, positions), numbers in blocks.items():
        edges.add(Edge(tail, head, layer, positions=positions, blocks=tuple(sorted(set(numbers)))))
    return tuple(edges)


def _node_pieces(
    skeleton: Skeleton, layout: Partition, pieces: Pieces
) -> dict[int, tuple[Piece, ...]]:
    """The pieces of each node: what the matrices into it compute, and what it takes over."""
    ways_out = defaultdict(list)
    for link in skeleton.links:
        ways_out[link.tail].append(link)
    found: dict[int, tuple[Piece, ...]] = {skeleton.sink: (None,)}
    for node in sorted(ways_out):
        own: dict[Piece, None] = {}
        parts: dict[Piece, None] = {}
        for link in ways_out[node]:
            if link.use:
                cells = _cells(layout.grids[link.use.path], link.use, pieces)
                own |= dict.fromkeys(tail for tail, _ in cells)
            elif link.is_part:
                parts |= dict.fromkeys(found[link.head])
            else:
                own |= dict.fromkeys(found[link.head])
        if any(own):
            own.pop(None, None)
        found[node] = tuple(own | parts)
    return found


def _cells(layer: GridLayer, use: Use, pieces: Pieces) -> list[tuple[Piece, Piece]]:
    """For each block, the piece that it computes and the piece that it reads, at this use."""
    along: list[Sequence[Piece]] = []
    is_out: list[bool] = []
    for side in layer.sides:
        along.append(pieces[layer.path, side.axis])
        is_out.append(_is_out(side.axis, layer, use))
    cells = []
    for index in np.ndindex(*layer.grid):
        tail = head = None
        for out, its, number in zip(is_out, along, index, strict=True):
            if out:
                tail = its[number]
            else:
                head = its[number]
        cells.append((tail, head))
    return cells


def _is_out(axis: int, layer: GridLayer, use: Use) -> bool:
    if use.out_axes is not None:
        return axis in use.out_axes
    return axis == layer.sides[-1].axis  # lost on the way: as in Flax, the last


def _matching(piece: Piece, available: Sequence[Piece], otherwise: Piece = None) -> Sequence[Piece]:
    """The pieces of a node that one side of a block meets: its own, else all.

    A matrix that reads no group, between two values of the same group (a depthwise convolution),
    joins each chunk to itself: `otherwise`.
    """
    for wanted in (piece, otherwise):
        if wanted in available:
            return [wanted] if wanted or len(available) == 1 else available
    return available


def _identities(
    link: Link, pieces_of: Mapping[int, tuple[Piece, ...]]
) -> list[tuple[Piece, Piece, float]]:
    """Pairs of pieces that an identity joins, each with its share of the channels."""
    heads = pieces_of[link.head]
    units = [piece.stop - piece.start if piece else 1 for piece in heads]
    share = {piece: size / sum(units) for piece, size in zip(heads, units, strict=True)}
    if link.is_part:
        return [(head, head, share[head]) for head in heads]
    return [
        (tail, head, share[head])
        for tail in pieces_of[link.tail]
        for head in ([tail] if tail in share else heads)
    ]
