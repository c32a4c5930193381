"""The layers as lines of a table: one each, or one for neighbours that share modules."""

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from pfn_optax.diagnosis.diagnosis import Diagnosis, LayerProfile
from pfn_optax.diagnosis.show.words import number, printable
from pfn_optax.table import without_shared

_MOST_LINES = 40


class Column(NamedTuple):
    """A measurement of layers.

    Attributes:
        field: of `LayerProfile`.
        head: its name in a table.
        about: what it is, in a sentence.
        is_share: whether it is shown as a percentage.
    """

    field: str
    head: str
    about: str
    is_share: bool = False


COLUMNS = (
    Column("num_params", "parameters", "how many numbers the parameters are"),
    Column("width", "units", "units that the layer puts out"),
    Column("parameter_norm", "norm", "L2 norm of the parameters"),
    Column("gradient_norm", "gradient", "L2 norm of the gradient of the loss by the parameters"),
    Column("update_ratio", "update", "norm of the first update over the norm of the parameters"),
    Column("mean_square", "mean sq.", "mean square of the preactivations"),
    Column("gain", "gain", "mean square of the preactivations over that of what is put in"),
    Column("activation_rank", "rank", "rank of the activations, 1 to the number of units"),
    Column("mean_cosine", "cosine", "cosine between the activations of two examples"),
    Column("dead_units", "dead", "share of units that are zero for every example", True),
    Column("saturated_share", "saturated", "share of activations at an end of their range", True),
    Column("backward_norm", "backward", "L2 norm of the gradient by the preactivations"),
    Column("capacity", "capacity", "capacity in the flow network"),
    Column("is_in_cut", "cut", "whether the minimum cut goes through the layer"),
)

# What to show where there is no room for all: what tells most first.
_URGENCY: Sequence[str] = (
    "gradient_norm mean_square gain activation_rank dead_units saturated_share update_ratio "
    "is_in_cut width mean_cosine parameter_norm num_params backward_norm capacity"
).split()


class Row(NamedTuple):
    """One layer, or neighbours as one.

    Attributes:
        name: of the layer, or the first and the last.
        layers: what it stands for.
        findings: numbers of the findings about it, from 1.
    """

    name: str
    layers: tuple[LayerProfile, ...]
    findings: tuple[int, ...]

    def cell(self, column: Column) -> str:
        """What a table shows of it: of several layers their median, parameters summed up."""
        value = self.value(column.field)
        if column.field == "is_in_cut":
            return "CUT" if value else ""
        if column.field == "num_params" and value is not None:
            return f"{int(value):,}"
        if column.is_share and value is not None and math.isfinite(value):
            return f"{value:.0%}"
        return number(value)

    def value(self, field: str) -> float | None:
        """One measurement of the layer; of several their median."""
        found = [getattr(layer, field) for layer in self.layers]
        values = [value for value in found if value is not None]
        if not values:
            return None
        if field == "is_in_cut":
            return any(values)
        if field == "num_params":
            return sum(values)
        broken = [value for value in values if not math.isfinite(value)]
        return broken[0] if broken else statistics.median(values)


def concerns(finding_layer: str, layer: str) -> bool:
    """Whether a path is that of the layer, of a module around it, or of a leaf in it."""
    one, other = finding_layer.split("/"), layer.split("/")
    shared = min(len(one), len(other))
    return one[:shared] == other[:shared]


def findings_of(diagnosis: Diagnosis) -> list[tuple[int, ...]]:
    """For each layer, the numbers of the findings that name it."""
    return [
        tuple(
            index
            for index, finding in enumerate(diagnosis.findings, 1)
            if any(concerns(named, layer.name) for named in finding.layers)
        )
        for layer in diagnosis.layers
    ]


def rows_of(diagnosis: Diagnosis, *, fold: bool = True) -> list[Row]:
    """Returns the lines of the table, few enough to be read if they are folded."""
    pairs = list(zip(diagnosis.layers, findings_of(diagnosis), strict=True))
    rows = [Row(printable(layer.name), (layer,), found) for layer, found in pairs]
    if not fold or len(rows) <= _MOST_LINES:
        return rows
    deepest = max(layer.name.count("/") for layer, _ in pairs) + 1
    # Layers with findings keep to themselves, unless that alone makes too many lines.
    for keeps_apart, length in itertools.product((True, False), range(deepest, -1, -1)):

        def key(pair, length=length, keeps_apart=keeps_apart):
            return tuple(pair[0].name.split("/")[:length]), pair[1] if keeps_apart else ()

        rows = [_folded(list(run)) for _, run in itertools.groupby(pairs, key=key)]
        if len(rows) <= _MOST_LINES:
            break
    return rows


def _folded(run: Sequence[tuple[LayerProfile, tuple[int, ...]]]) -> Row:
    layers = tuple(layer for layer, _ in run)
    first, last = layers[0].name, layers[-1].name
    name = printable(first)
    if len(layers) > 1:
        # The count first: what is too long loses its middle.
        name = f"{len(layers)} layers: {name} ... {printable(without_shared(last, first))}"
    return Row(name, layers, tuple(sorted({number for _, found in run for number in found})))


def measured(diagnosis: Diagnosis) -> list[Column]:
    """The columns that hold anything, in their order."""
    return [column for column in COLUMNS if _holds_anything(diagnosis, column)]


def by_urgency(diagnosis: Diagnosis) -> list[Column]:
    """The columns that hold anything, what tells most first and what is all zero last."""

    def key(column: Column) -> tuple[bool, int]:
        is_telling = any(getattr(layer, column.field) for layer in diagnosis.layers)
        return not is_telling, _URGENCY.index(column.field)

    return sorted(measured(diagnosis), key=key)


def _holds_anything(diagnosis: Diagnosis, column: Column) -> bool:
    values = [getattr(layer, column.field) for layer in diagnosis.layers]
    if column.field == "is_in_cut":
        return any(values)
    return any(value is not None for value in values)
