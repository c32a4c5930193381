"""A block without the way around that the blocks like it have."""

import re
from collections import defaultdict
from collections.abc import Iterator

from pfn_optax.diagnosis.case import Case, Skip
from pfn_optax.diagnosis.finding import Cause, Evidence, Finding, Severity
from pfn_optax.graph import FlowGraph
from pfn_optax.paths import named_leaves
from pfn_optax.table import listed

_NUMBERED = re.compile(r"(.*?)(\d+)")
_OTHERS = 3  # blocks with a way around, for each without


def check_missing_residual(case: Case) -> Iterator[Finding]:
    """Compares layers of the same name and shape in numbered blocks, by the paths around them."""
    if case.graph is None:
        raise Skip("the loss depends on no data through any layer that was recognised")
    serial = case.structure.serial
    alone: dict[str, list[str]] = defaultdict(list)
    most = 0
    for family in _families(case, case.graph):
        odd = {block: name for block, name in family.items() if name in serial}
        others = sorted(family.keys() - odd.keys())
        # The first and the last differ on purpose: a stem, the ends of skips over many blocks.
        between = [block for block in odd if others and others[0] < block < others[-1]]
        if odd and len(between) == len(odd) and _OTHERS * len(odd) <= len(others):
            most = max(most, len(others))
            for (*path, number), name in odd.items():
                alone[f"{'/'.join(path)}{number}"].append(name)
    for block, names in alone.items():
        yield Finding(
            Cause.MISSING_RESIDUAL,
            Severity.WARNING,
            f"All that passes goes through {listed(names, 4)}; the same layers of {most} other "
            "blocks have a way around them.",
            f"Give {block} the residual connection that its siblings have, x + block(x). If it is "
            "meant so, nothing is wrong.",
            (
                Evidence("ways around", 0.0),
                Evidence("blocks like it that have one", float(most)),
            ),
            tuple(names),
        )


def _families(case: Case, graph: FlowGraph) -> list[dict[tuple, str]]:
    """Layers that differ in the number of the block that holds them, by that block's place."""
    shapes = {path: leaf.shape for path, leaf in named_leaves(case.setup.params)}
    joined = {edge.layer for edge in graph.edges}
    found: dict[tuple, dict[tuple, str]] = defaultdict(dict)
    for layer in case.layout.layers:
        if layer.name not in joined:
            continue
        parts = layer.name.split("/")
        for place, part in enumerate(parts[:-1]):
            if match := _NUMBERED.fullmatch(part):
                stem, number = match.groups()
                before, after = tuple(parts[:place]), tuple(parts[place + 1 :])
                family = found[before, stem, after, shapes[layer.path]]
                family[(*before, stem, int(number))] = layer.name
    return list(found.values())
