"""A graph in the making: values of a program are nodes, layers and identities are links.

Nodes are numbered in the order in which the program computes them, and links point towards the
data, as the edges of the finished graph do: a link always leads to a smaller number.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from pfn_optax.paths import Path


class Use(NamedTuple):
    """A layer's matrix where it meets data.

    Attributes:
        path: key path of the matrix.
        in_axes: its axes that are summed with the data's; None where they were lost on the way.
        out_axes: its axes that the result has; None likewise.
    """

    path: Path
    in_axes: tuple[int, ...] | None = None
    out_axes: tuple[int, ...] | None = None


class Link(NamedTuple):
    """What joins two nodes.

    Attributes:
        tail: the node nearer the loss.
        head: the node nearer the data.
        use: the matrix in between; None for an identity.
        positions: at how many positions it is applied, over the whole batch.
        width: channels of an identity.
        is_part: of an identity, whether the head stands beside other values in the tail (in a
            concatenation) and is not added to them.
    """

    tail: int
    head: int
    use: Use | None
    positions: int = 1
    width: int = 0
    is_part: bool = False


class Operand(NamedTuple):
    """A value that enters a junction.

    Attributes:
        node: its node.
        shape: its shape; channels are last, everything else are positions.
    """

    node: int
    shape: tuple[int, ...]


class Sketch:
    """Nodes and links so far.

    Attributes:
        links: all links.
        data: the nodes that are arguments, each with its key path.
    """

    def __init__(self):
        """Starts empty."""
        self.links: list[Link] = []
        self.data: dict[int, Path] = {}
        self._contents: list[frozenset[int]] = []  # of each node, what it equals or adds up
        self._junctions: set[int] = set()
        self._known: dict[object, int] = {}

    def add_data(self, path: Path) -> int:
        """Adds the node of an argument."""
        node = self._add(())
        self.data[node] = path
        return node

    def apply(self, use: Use, head: int, positions: int) -> int:
        """Adds the value of a layer at the value of a node."""
        tail = self._add(())
        self.links.append(Link(tail, head, use, positions))
        return tail

    def join(self, operands: Iterable[Operand], *, is_concatenation: bool = False) -> int:
        """Returns the node of several values together, a new junction where there is none yet.

        What another operand contains already adds no path, so the sums of a residual stream form a
        line. A concatenation is wider than its operands and keeps all of them.
        """
        sizes: dict[int, int] = {}
        channels: dict[int, int] = {}
        for node, shape in operands:
            size = 1
            for length in shape:
                size *= length
            sizes[node] = max(size, sizes.get(node, 0))
            channels[node] = max(shape[-1] if shape else 1, channels.get(node, 0))
        heads = sorted(sizes)
        if not is_concatenation:
            contained = [self._contents[node] - {node} for node in heads]
            heads = [node for node in heads if not any(node in other for other in contained)]
        if len(heads) == 1:
            return heads[0]
        key = is_concatenation, *((node, sizes[node]) for node in heads)
        if key not in self._known:
            tail = self._known[key] = self._add(heads)
            self._junctions.add(tail)
            self.links += [
                Link(
                    tail,
                    node,
                    None,
                    positions=sizes[node] // channels[node],
                    width=channels[node],
                    is_part=is_concatenation,
                )
                for node in heads
            ]
        return self._known[key]

    def holds(self, node: int, other: int) -> bool:
        """Whether a value equals another, or adds it up with more."""
        return other in self._contents[node]

    def is_data(self, node: int, data: Collection[int] | None = None) -> bool:
        """Whether a value is made of arguments alone, or of some of them."""
        ends = self._contents[node] - self._junctions
        return ends <= set(self.data if data is None else data)

    def _add(self, heads: Iterable[int]) -> int:
        node = len(self._contents)
        self._contents.append(frozenset({node}).union(*(self._contents[n] for n in heads)))
        return node
