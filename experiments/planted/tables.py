"""Scores of many networks, gathered in tables."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.planted.bottlenecks import BOTTLENECKS, FAULTS, KINDS
from experiments.planted.networks import FAMILIES
from experiments.planted.scores import Score, Share, share

Record = Mapping[str, Any]
"""One network in one phase: what it is, its loss, how far it healed, and each method's `Score`."""

HEALED = 0.5
"""Where training has undone more than this share of what was planted, there is no cause to find."""


def _of_kinds(*kinds: str) -> Callable[[Record], bool]:
    return lambda record: record["kind"] in kinds


def _at(time: str) -> dict[str, Callable[[Record], bool]]:
    return {
        kind: lambda record, kind=kind: (
            record["kind"] == kind and (record["phase"] == "initial") == (time == "initial")
        )
        for kind in KINDS
    }


VIEWS: dict[str, dict[str, Callable[[Record], bool]]] = {
    "initial": _at("initial"),
    "trained": _at("trained"),
    "kinds": {kind: _of_kinds(kind) for kind in KINDS},
    "groups": {
        "healthy": _of_kinds("healthy"),
        "bottlenecks": _of_kinds(*BOTTLENECKS),
        "faults": _of_kinds(*FAULTS),
    },
    "families": {
        family: lambda record, family=family: (
            record["kind"] in BOTTLENECKS and record["architecture"].startswith(family)
        )
        for family in FAMILIES
    },
}
"""Tables: the networks that each column is about."""


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Gathers the scores in every view.

    Args:
        records: the records of all networks.

    Returns:
        `views[view][method][column]`, each as `cell`, of what is still planted; `networks`, how
        many were planted; `healed[kind]`, the share of the trained that is left out;
        `losses[family][kind]`, the mean loss of the trained, in nats: what the plant costs.
        Phases of one network count each, though they are not independent.
    """
    methods = list(records[0]["methods"]) if records else []
    sick = [record for record in records if record["healed"] < HEALED]
    trained = [record for record in records if record["phase"] != "initial"]
    return {
        "networks": len({(r["architecture"], r["kind"], r["seed"]) for r in records}),
        "healed": {
            kind: float(np.mean(parts))
            for kind in KINDS
            if (parts := [r["healed"] >= HEALED for r in trained if r["kind"] == kind])
        },
        "losses": {
            family: {
                kind: float(np.mean(losses))
                for kind in KINDS
                if (losses := [r["loss"] for r in trained if _is(r, family, kind)])
            }
            for family in FAMILIES
        },
        "views": {
            view: {
                method: {
                    column: cell(record["methods"][method] for record in sick if is_in(record))
                    for column, is_in in columns.items()
                }
                for method in methods
            }
            for view, columns in VIEWS.items()
        },
    }


def _is(record: Record, family: str, kind: str) -> bool:
    return record["kind"] == kind and record["architecture"].startswith(family)


def cell(scores: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Gathers scores.

    Args:
        scores: as `Score._asdict()`.

    Returns:
        `recall` and `precision` as `Share`, `rank`, `block_recall` and `block_precision` as means;
        None where there is nothing to take a mean of.
    """
    scores = list(scores)
    found: dict[str, Any] = {}
    for measure in Score._fields:
        numbers = [score[measure] for score in scores if score[measure] is not None]
        mean = share if measure in ("recall", "precision") else np.mean
        found[measure] = mean(numbers) if numbers else None
    return found


def as_json(found: Mapping[str, Any]) -> str:
    """Writes a summary as JSON, four decimals; a share is `[mean, low, high, count]`."""
    return json.dumps(_rounded(found)) + "\n"


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return round(float(value), 4)
        case Mapping():
            return {key: _rounded(item) for key, item in value.items()}
        case list() | tuple():
            return [_rounded(item) for item in value]
        case _:
            return value


def text(found: Mapping[str, Any]) -> str:
    """Formats a summary as Markdown tables."""
    views = found["views"]
    units = {name: row for name, row in views["kinds"].items() if name.startswith("units")}
    healed = ", ".join(f"{kind} {part:.2f}" for kind, part in found["healed"].items() if part)
    return "\n\n".join(
        (
            f"{found['networks']} networks; healed by training and left out: {healed or 'none'}",
            f"recall, 95% Wilson interval:\n\n{_table(views['groups'], _interval)}",
            f"precision, 95% Wilson interval:\n\n{_table(views['groups'], _interval, 'precision')}",
            f"recall at initialisation:\n\n{_table(views['initial'], _mean)}",
            f"recall after training:\n\n{_table(views['trained'], _mean)}",
            f"precision:\n\n{_table(views['kinds'], _mean, 'precision')}",
            f"mean rank of the cause:\n\n{_table(views['kinds'], _mean, 'rank')}",
            f"planted blocks that are named:\n\n{_table(units, _mean, 'block_recall')}",
            f"named blocks that are planted:\n\n{_table(units, _mean, 'block_precision')}",
            f"loss after training, nats:\n\n{_losses(found['losses'])}",
            f"recall of bottlenecks by family:\n\n{_table(views['families'], _mean)}",
        )
    )


def _table(
    rows: Mapping[str, Mapping[str, Any]],
    show: Callable[[Mapping[str, Any], str], str],
    measure: str = "recall",
) -> str:
    columns = list(next(iter(rows.values()))) if rows else []
    return _markdown(
        ["named by", *columns],
        [[name, *(show(row[column], measure) for column in columns)] for name, row in rows.items()],
    )


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines
    )


def _losses(losses: Mapping[str, Mapping[str, float]]) -> str:
    return _markdown(
        ["family", *KINDS],
        [
            [family, *(f"{row[kind]:.2f}" if kind in row else "-" for kind in KINDS)]
            for family, row in losses.items()
        ],
    )


def number(cell: Mapping[str, Any], measure: str) -> float | None:
    """The mean of a measure in a cell; None where there is none."""
    value = cell[measure]
    return value.mean if isinstance(value, Share) else value


def _mean(cell: Mapping[str, Any], measure: str) -> str:
    value = number(cell, measure)
    return "-" if value is None else f"{value:.{1 if measure == 'rank' else 2}f}"


def _interval(cell: Mapping[str, Any], measure: str) -> str:
    part = cell[measure]
    return "-" if part is None else f"{part.mean:.2f} [{part.low:.2f}, {part.high:.2f}]"
