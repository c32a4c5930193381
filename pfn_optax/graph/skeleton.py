"""From a sketch to the skeleton of its graph: what lies between loss and data, and no more.

1. Only what the loss depends on stays.
2. An argument is *data* if it meets a layer before it meets anything that layers computed. Targets,
   masks and batch statistics do not, and carry no flow.
3. A path from the loss to the data through no layer at all is left out: no cut could close it. (An
   input that is its own target makes one, and so does an identity around the whole network.)
4. All data becomes one node, the sink.
5. Identities are contracted wherever that changes no cut: where they are the only way out of their
   tail, or the only way into their head.
"""

from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from pfn_optax.graph.sketch import Link, Sketch
from pfn_optax.paths import Path

_SINK = -1


class Skeleton(NamedTuple):
    """The links between loss and data.

    Attributes:
        links: the links, in the order of the program.
        source: the loss.
        sink: the data.
        data: the arguments that are data.
        bypassing: those of them that also reach the loss through no layer.
    """

    links: tuple[Link, ...]
    source: int
    sink: int
    data: tuple[Path, ...]
    bypassing: tuple[Path, ...]


def skeleton(sketch: Sketch, loss: int) -> Skeleton | None:
    """Reduces a sketch to what lies between its loss and its data.

    Args:
        sketch: the sketch.
        loss: the node of the loss.

    Returns:
        The skeleton; None if no argument is data.
    """
    links = _live(sketch.links, loss)
    entered = {link.head for link in links if link.use and sketch.is_data(link.head)}
    data = frozenset(node for node in sketch.data if any(sketch.holds(v, node) for v in entered))
    if not data:
        return None

    nodes = {loss, *(link.head for link in links)}
    is_data = {node: sketch.is_data(node, data) for node in nodes}
    is_context = {node: sketch.is_data(node) - is_data[node] for node in nodes}
    near_loss = _reached([link for link in links if link.use is None], loss)
    bypasses = [
        link for link in links if link.tail in near_loss and not link.use and is_data[link.head]
    ]
    links = [
        link._replace(head=_SINK if is_data[link.head] else link.head)
        for link in links
        if not (is_context[link.head] or is_data[link.tail] or link in bypasses)
    ]
    links = _live(_reversed(_live(_reversed(links), _SINK)), loss)
    return Skeleton(
        links=tuple(_contracted(links, loss)),
        source=loss,
        sink=_SINK,
        data=_paths(sketch, data),
        bypassing=_paths(
            sketch, {n for link in bypasses for n in data if sketch.holds(link.head, n)}
        ),
    )


def _paths(sketch: Sketch, nodes: Collection[int]) -> tuple[Path, ...]:
    return tuple(sketch.data[node] for node in sorted(nodes))


def _live(links: list[Link], source: int) -> list[Link]:
    reached = _reached(links, source)
    return [link for link in links if link.tail in reached]


def _reversed(links: list[Link]) -> list[Link]:
    return [link._replace(tail=link.head, head=link.tail) for link in links]


def _reached(links: list[Link], source: int) -> set[int]:
    heads: dict[int, list[int]] = {}
    for link in links:
        heads.setdefault(link.tail, []).append(link.head)
    reached, todo = {source}, [source]
    while todo:
        for head in heads.get(todo.pop(), ()):
            if head not in reached:
                reached.add(head)
                todo.append(head)
    return reached


def _contracted(links: list[Link], source: int) -> list[Link]:
    while True:
        ways_out = Counter(link.tail for link in links)
        ways_in = Counter(link.head for link in links)
        for link in links:
            if link.use is not None:
                continue
            if link.head != _SINK and ways_in[link.head] == 1:
                gone, stays = link.head, link.tail
            elif link.tail != source and ways_out[link.tail] == 1:
                gone, stays = link.tail, link.head
            else:
                continue
            break
        else:
            return links
        merged = [
            other._replace(
                tail=stays if other.tail == gone else other.tail,
                head=stays if other.head == gone else other.head,
            )
            for other in links
            if other is not link
        ]
        links = _without_doubles(merged)


def _without_doubles(links: list[Link]) -> list[Link]:
    """Of several identities between the same nodes only the widest stays."""
    widest: dict[tuple[int, int], Link] = {}
    for link in links:
        if link.use is None:
            ends = link.tail, link.head
            best = widest.get(ends, link)
            widest[ends] = max(best, link, key=lambda one: one.width * one.positions)
    return [
        link
        for link in links
        if link.tail != link.head and (link.use or widest[link.tail, link.head] is link)
    ]
