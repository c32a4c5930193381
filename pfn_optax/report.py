"""A state of `pfn` turned into rows that people can read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import jax
import numpy as np

from pfn_optax.graph import BoundGraph, FlowGraph
from pfn_optax.partition import OutputAxis, Partition, partition
from pfn_optax.status import Status
from pfn_optax.transform import PFNState, chain_of


class CutRow(NamedTuple):
    """One block.

    Attributes:
        layer: path of the layer.
        block: number of the block within its layer.
        units: output units of the block, `"16:32"`.
        norm: EMA of its raw gradient norm.
        capacity: its capacity at the last diagnosis.
        in_cut: whether it is a bottleneck.
        persistence: consecutive earlier diagnoses in the cut.
        multiplier: what its updates are multiplied by.
    """

    layer: str
    block: int
    units: str
    norm: float
    capacity: float
    in_cut: bool
    persistence: int
    multiplier: float


@dataclass(frozen=True)
class CutReport(Sequence[CutRow]):
    """The rows of all blocks, in forward order, and what is known of the whole; prints as a table.

    Attributes:
        rows: one per block.
        step: steps taken.
        flow: value of the maximum flow.
        certified: whether flow and cut are proven optimal.
        unique: whether it is the only minimum cut.
        status: the status of the last diagnosis.
    """

    rows: tuple[CutRow, ...]
    step: int
    flow: float
    certified: bool
    unique: bool
    status: Status

    @property
    def bottlenecks(self) -> tuple[str, ...]:
        """Names of the layers with a block in the cut, in forward order."""
        return tuple(dict.fromkeys(row.layer for row in self.rows if row.in_cut))

    def __len__(self) -> int:
        """Number of blocks."""
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> CutRow: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[CutRow, ...]: ...
    def __getitem__(self, index):
        """Returns the row or rows at an index."""
        return self.rows[index]

    def __iter__(self) -> Iterator[CutRow]:
        """Iterates over the rows."""
        return iter(self.rows)

    def __str__(self) -> str:
        """Formats a summary line and one aligned line per block."""
        kind = "unique" if self.unique else "one of several"
        proof = f"certified, {kind}" if self.certified else "not certified"
        name = self.status.name.lower().replace("_", " ")
        summary = f"step {self.step}: {name}; maximum flow {self.flow:.4g} ({proof})"
        header = ("layer", "block", "units", "norm", "capacity", "cut", "persistence", "multiplier")
        cells = [header, *(_cells(row) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = (
            "  ".join(
                # Words to the left, numbers to the right.
                cell.ljust(width) if column in (0, 5) else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in cells
        )
        return "\n".join((summary, *lines))


def _cells(row: CutRow) -> tuple[str, ...]:
    return (
        row.layer,
        str(row.block),
        row.units,
        f"{row.norm:.3g}",
        f"{row.capacity:.3g}",
        "CUT" if row.in_cut else "",
        str(row.persistence) if row.in_cut else "",
        f"{row.multiplier:.2f}",
    )


class Snapshot(NamedTuple):
    """A host copy of a state beside the partition and the graph it belongs to.

    Attributes:
        state: the state, numpy arrays.
        layout: partition of the parameters.
        bound: the flow graph on its blocks.
    """

    state: PFNState
    layout: Partition
    bound: BoundGraph


def snapshot(
    state: Any,
    params: Any,
    *,
    block_size: int | None = None,
    num_blocks: int | None = None,
    output_axis: OutputAxis | None = None,
    graph: FlowGraph | None = None,
) -> Snapshot:
    """Finds the `PFNState` in any optimizer state and joins it with its partition and graph.

    Args:
        state: an optimizer state with one `PFNState` in it, also that of `nnx.Optimizer`.
        params: the parameter tree (or gradients, or abstract leaves: only shapes are read).
        block_size: as given to `pfn`.
        num_blocks: as given to `pfn`.
        output_axis: as given to `pfn`.
        graph: as given to `pfn`.

    Returns:
        The snapshot.

    Raises:
        ValueError: if there is no or more than one `PFNState`, it is a batch of states, or it does
            not fit the parameters with these options.
    """
    found = [
        leaf
        for leaf in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, PFNState))
        if isinstance(leaf, PFNState)
    ]
    if len(found) != 1:
        raise ValueError(
            f"expected one PFNState in the optimizer state, found {len(found)} in a "
            f"{type(state).__name__}: pass the part of the state of one pfn() or with_pfn()."
        )
    # Leaves may be wrapped in variables of `nnx.Optimizer`.
    arrays: list[Any] = [np.asarray(jax.tree.leaves(leaf)[0]) for leaf in found[0]]
    host = PFNState(*arrays)
    layout = partition(
        params, block_size=block_size, num_blocks=num_blocks, output_axis=output_axis
    )
    if host.pfn_norms.ndim != 1:
        raise ValueError(
            f"this is a batch of states, norms of shape {host.pfn_norms.shape}: choose one, e.g. "
            "jax.tree.map(lambda x: x[0], state)."
        )
    if len(host.pfn_norms) != layout.num_blocks:
        raise ValueError(
            f"the state has {len(host.pfn_norms)} blocks, these parameters make "
            f"{layout.num_blocks}: pass the block_size, num_blocks, output_axis and graph "
            "that were given to pfn()."
        )
    return Snapshot(host, layout, (graph or chain_of(layout)).bind(layout))


def cut_report(state: Any, params: Any, **layout_options: Any) -> CutReport:
    """Turns a state of `pfn` into rows, one per block, that print as a table.

    Args:
        state: an optimizer state with a `PFNState` somewhere in it.
        params: the parameter tree; only names and shapes are read.
        **layout_options: `block_size`, `num_blocks`, `output_axis`, `graph`, as given to `pfn`.

    Returns:
        A sequence of `CutRow`, in forward order; `print` it for a table.

    Raises:
        ValueError: if no single `PFNState` is found, or it does not fit the parameters.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from pfn_optax import cut_report, pfn
        >>> optimizer = optax.chain(pfn(capacity="norm", every=1), optax.sgd(0.1))
        >>> params = {"layer0": {"w": jnp.ones((3, 4))}, "layer1": {"w": jnp.ones((4, 1))}}
        >>> _, state = optimizer.update(params, optimizer.init(params), params)
        >>> print(cut_report(state, params))
        step 1: certified; maximum flow 2 (certified, unique)
        layer   block  units  norm  capacity  cut  persistence  multiplier
        layer0      0    0:4  3.46      3.46                          1.00
        layer1      0    0:1     2         2  CUT            0        2.80
    """
    known, layout, _ = snapshot(state, params, **layout_options)
    rows = []
    for layer in layout.layers:
        stops = (*layer.starts[1:], layer.num_units)
        for number, units in enumerate(zip(layer.starts, stops, strict=True)):
            index = layer.first_block + number
            rows.append(
                CutRow(
                    layer=layer.name,
                    block=number,
                    units="{}:{}".format(*units),
                    norm=float(known.pfn_norms[index]),
                    capacity=float(known.pfn_capacities[index]),
                    in_cut=bool(known.pfn_cut[index]),
                    persistence=int(known.pfn_persistence[index]),
                    multiplier=float(known.pfn_multipliers[index]),
                )
            )
    return CutReport(
        rows=tuple(rows),
        step=int(known.pfn_step),
        flow=float(known.pfn_flow),
        certified=bool(known.pfn_certified),
        unique=bool(known.pfn_unique),
        status=Status(int(known.pfn_status)),
    )
