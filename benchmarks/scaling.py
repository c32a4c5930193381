"""Cost and memory of a maximum flow against the size of the graph.

    python -m benchmarks.scaling [--json PATH] [--repeats 5] [--sizes 10 30 100 ...]

Families of graphs (see `benchmarks.graphs`): chains of layers of 8 blocks, which are
series-parallel; layered unit graphs of width 16 that grow in depth, without and with skips; random
graphs of 5 edges per node. The smallest layered graphs have two layers, four with skips.

Calls and loops are timed as in `benchmarks.solver`. Memory is what describes the network on the
host, and XLA's temporary buffers, arguments and outputs of a call. Tracing includes the reduction
of the network, which is then kept. `python -m benchmarks.figures` draws the results.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks import tables
from benchmarks.graphs import FAMILIES, Case
from benchmarks.records import environment, write
from benchmarks.solves import calls, loop, program


@dataclass(frozen=True)
class Config:
    """What to time.

    Attributes:
        sizes: about how many nodes the graphs have.
        repeats: turns of each solver; the median counts.
        json: where to write the numbers, if anywhere.
    """

    sizes: tuple[int, ...] = (10, 30, 100, 300, 1000, 2000, 5000)
    repeats: int = 5
    json: Path | None = None


def measure(family: str, case: Case, repeats: int) -> dict[str, Any]:
    """Measures everything on one graph."""
    compiled = program(case.network)
    milliseconds = calls(case, repeats)
    in_loop = loop(case, repeats, call_milliseconds=milliseconds["ours"])
    return {
        "family": family,
        "num_nodes": case.network.num_nodes,
        "num_edges": case.network.num_edges,
        "milliseconds": milliseconds,
        "loop_solves": in_loop.num_solves,
        "loop_milliseconds": in_loop.milliseconds,
        "accepted": in_loop.accepted,
        **compiled._asdict(),
    }


def main(config: Config) -> None:
    """Times everything and prints the table."""
    cases = {  # small sizes can make the same layered graph
        (family, case.network): case
        for family, make in FAMILIES.items()
        for case in map(make, sorted(config.sizes))
    }
    rows = [measure(family, case, config.repeats) for (family, _), case in cases.items()]
    record = {**environment(), "rows": rows}
    print(tables.scaling(record))
    write(record, config.json)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
