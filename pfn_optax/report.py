"""A state of `pfn` turned into rows that people can read."""

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import jax
import numpy as np

from pfn_optax.capacity import DEFAULT_CAPACITY, CapacityFn, CapacityRule, capacity_rule
from pfn_optax.graph import BoundGraph, FlowGraph, bound_to, layout_of
from pfn_optax.partition import OutputAxis, Partition
from pfn_optax.state import PFNState
from pfn_optax.status import Status
from pfn_optax.table import CutRow, aligned_lines, by_layer, fold, html_table, line_of, listed

_MOST_HTML_LINES = 1000  # more make a notebook slow


@dataclass(frozen=True)
class CutReport(Sequence[CutRow]):
    """The rows of all blocks, in natural path order, and what is known of all; prints as a table.

    Beyond 40 blocks the table is folded: a layer outside the cut becomes one line (its norm that of
    all its blocks together, its capacity their sum) and, beyond 40 lines, so do neighbours of one
    module. Blocks in the cut always have a line of their own. `full` returns a line for each block;
    a notebook shows the folded table with the full one behind a click (up to 1000 blocks).

    Attributes:
        rows: one per block.
        step: steps taken.
        flow: value of the maximum flow.
        certified: whether flow and cut are proven optimal.
        unique: whether it is the only minimum cut.
        status: the status of the last diagnosis.
        notes: what is uncertain about the graph, and which layers and parameters are not in it.
    """

    rows: tuple[CutRow, ...]
    step: int
    flow: float
    certified: bool
    unique: bool
    status: Status
    notes: tuple[str, ...] = ()

    @property
    def bottlenecks(self) -> tuple[str, ...]:
        """Names of the layers with a block in the cut, in natural path order."""
        return tuple(dict.fromkeys(row.layer for row in self.rows if row.in_cut))

    @property
    def summary(self) -> str:
        """Step, status, and the flow with what is proven of it, in one line."""
        kind = "unique" if self.unique else "one of several"
        proof = f"certified, {kind}" if self.certified else "not certified"
        name = self.status.name.lower().replace("_", " ")
        return f"step {self.step}: {name}; maximum flow {self.flow:.4g} ({proof})"

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
        """Formats a summary and one aligned line per block, layer or module."""
        lines = fold(self.rows)
        heads = [self.summary]
        if len(lines) < len(self.rows):
            heads.append(self._bottleneck_line())
        return "\n".join((*heads, *aligned_lines(lines), *self.notes))

    def full(self) -> str:
        """Formats the report with one line per block, however many there are."""
        return "\n".join((self.summary, *aligned_lines(map(line_of, self.rows)), *self.notes))

    def _bottleneck_line(self) -> str:
        cut = [
            f"{name} ({sum(row.in_cut for row in rows)} of {len(rows)})"
            for name, rows in by_layer(self.rows)
            if any(row.in_cut for row in rows)
        ]
        return f"blocks in the cut: {listed(cut) or 'none'}"

    def _repr_html_(self) -> str:
        """The table as a notebook shows it; names are escaped, they come from the model."""
        lines = fold(self.rows)
        parts = [f"<p>{html.escape(self.summary)}</p>"]
        if len(lines) < len(self.rows):
            parts.append(f"<p>{html.escape(self._bottleneck_line())}</p>")
        parts.append(html_table(lines))
        if len(lines) < len(self.rows) <= _MOST_HTML_LINES:
            every = html_table(map(line_of, self.rows))
            parts.append(
                f"<details><summary>all {len(self.rows)} blocks</summary>{every}</details>"
            )
        parts.extend(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return "<div>" + "\n".join(parts) + "</div>"


class Snapshot(NamedTuple):
    """A host copy of a state beside the partition and the graph it belongs to.

    Attributes:
        state: the state, numpy arrays.
        layout: partition of the parameters.
        bound: the flow graph on its blocks.
        rule: the capacity rule.
    """

    state: PFNState
    layout: Partition
    bound: BoundGraph
    rule: CapacityRule


def snapshot(
    state: Any,
    params: Any,
    *,
    block_size: int | None = None,
    num_blocks: int | None = None,
    output_axis: OutputAxis | None = None,
    capacity: str | CapacityFn = DEFAULT_CAPACITY,
    graph: FlowGraph | None = None,
) -> Snapshot:
    """Finds the `PFNState` in any optimizer state and joins it with its partition and graph.

    Args:
        state: an optimizer state with one `PFNState` in it, also that of `nnx.Optimizer`.
        params: the parameter tree (or gradients, or abstract leaves: only shapes are read).
        block_size: as given to `pfn`.
        num_blocks: as given to `pfn`.
        output_axis: as given to `pfn`.
        capacity: as given to `pfn`; it decides how capacities of blocks become those of edges.
        graph: as given to `pfn`; one with a `layout` brings the blocks with it.

    Returns:
        The snapshot.

    Raises:
        ValueError: if there is no or more than one `PFNState`, it is a batch of states, or it does
            not fit the parameters with these options, or block options stand beside a graph that
            brings its own blocks.
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
    # Leaves may be wrapped in variables of `nnx.Optimizer`. A warm start tells nothing.
    arrays: dict[str, Any] = {
        name: np.asarray(jax.tree.leaves(leaf)[0])
        for name, leaf in found[0]._asdict().items()
        if name != "pfn_warm"
    }
    host = PFNState(**arrays)
    layout = layout_of(
        graph, params, block_size=block_size, num_blocks=num_blocks, output_axis=output_axis
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
    return Snapshot(host, layout, bound_to(graph, layout), capacity_rule(capacity))


def cut_report(state: Any, params: Any, **layout_options: Any) -> CutReport:
    """Turns a state of `pfn` into rows, one per block, that print as a table.

    Args:
        state: an optimizer state with a `PFNState` somewhere in it.
        params: the parameter tree; only names and shapes are read.
        **layout_options: `block_size`, `num_blocks`, `output_axis`, `capacity`, `graph`, as given
            to `pfn`.

    Returns:
        A sequence of `CutRow`, in natural path order; `print` it for a table.

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
    known, layout, bound, _ = snapshot(state, params, **layout_options)
    rows = []
    for layer in layout.layers:
        for number in range(layer.num_blocks):
            index = layer.first_block + number
            rows.append(
                CutRow(
                    layer=layer.name,
                    block=number,
                    units=layer.describe_block(number),
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
        notes=_notes(layout, bound, layout_options.get("graph")),
    )


def _notes(layout: Partition, bound: BoundGraph, graph: FlowGraph | None) -> tuple[str, ...]:
    on_edges = set(bound.edge_block.tolist())
    absent = [
        layer.name
        for layer in layout.layers
        if on_edges.isdisjoint(range(layer.blocks.start, layer.blocks.stop))
    ]
    notes = [f"warning: {warning}" for warning in graph.warnings] if graph else []
    if graph and graph.unreached:
        notes.append(f"the loss does not depend on: {listed(graph.unreached)}")
    if absent:
        notes.append(f"on no edge of the graph, so never in the cut: {listed(absent)}")
    return tuple(notes)
