"""What the arms of the hourglass came to, as rows and as Markdown tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.growth.hourglass_arms import WAIST, Record
from experiments.statistics import bootstrap_difference
from pfn_optax.capacity import CAPACITIES

AGAINST = ("nowhere", "uniform")


def summarise(arms: Mapping[str, Sequence[Record]]) -> list[dict[str, Any]]:
    """A row per arm.

    Args:
        arms: its records, one per seed.

    Returns:
        The rows, in order.
    """
    rows = []
    for name, records in arms.items():
        grown = [group for record in records for group in record["grown"] if group is not None]
        row: dict[str, Any] = {
            "arm": name,
            "rate": records[0]["rate"],
            "accuracy": [record["accuracy"] for record in records],
            "final_loss": [record["losses"][-1] for record in records],
            "widths": _mean([record["widths"][-1] for record in records]),
            "course": _mean([record["widths"] for record in records]),
            "steps": [record["steps"] for record in records],
            "parameters": float(np.mean([record["parameters"] for record in records])),
            "added": float(np.mean([record["added"] for record in records])),
            "flops": float(np.mean([record["flops"] for record in records])),
            "units": len(grown) / len(records),
            "hits": grown.count(WAIST) / len(grown) if grown else None,
            "named": _shares([record["named"] for record in records]),
        }
        for other in AGAINST:
            if other in arms and other != name:
                control = [record["accuracy"] for record in arms[other]]
                found = bootstrap_difference(row["accuracy"], control)
                row[f"over {other}"] = found._asdict()
        rows.append(row)
    return rows


def _mean(values: Sequence[Any]) -> list[Any]:
    """Over the seeds."""
    return np.mean(values, axis=0).tolist()


def _shares(named: Sequence[Sequence[Mapping[str, str | None]]]) -> dict[str, float]:
    """Share of the events at which the cut of a capacity named the waist, in these runs."""
    found: dict[str, list[bool]] = {}
    for event in (event for run in named for event in run):
        for capacity, group in event.items():
            found.setdefault(capacity, []).append(group == WAIST)
    return {capacity: float(np.mean(values)) for capacity, values in found.items()}


def text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats the rows as a Markdown table; accuracies and differences in points."""
    lines = [
        "| arm | accuracy, % | over nowhere [95%] | over uniform [95%] | parameters (added) "
        "| FLOPs, 1e9 | waist | events at the waist |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        waist = row["widths"][int(WAIST.removeprefix("Conv_"))]
        hits = "" if row["hits"] is None else f"{row['hits']:.0%}"
        lines.append(
            f"| {row['arm']} | {100 * np.mean(row['accuracy']):.1f} "
            f"| {_difference(row, 'nowhere')} | {_difference(row, 'uniform')} "
            f"| {row['parameters']:,.0f} ({row['added']:,.0f}) | {row['flops'] / 1e9:.1f} "
            f"| {waist:.1f} | {hits} |"
        )
    return "\n".join(lines)


def _difference(row: Mapping[str, Any], other: str) -> str:
    found = row.get(f"over {other}")
    if found is None:
        return ""
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * bound for bound in found.values()))


def named_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats how often the cut of each capacity named the waist, in its own arm and in others."""
    by_name = {row["arm"]: row["named"] for row in rows if row["named"]}
    watched = [name for name in ("nowhere", "uniform", "narrowest") if name in by_name]
    titles = ["capacity", *(f"arm: {name}" for name in watched), "its own arm"]
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for capacity in CAPACITIES:
        own = by_name.get(f"cut: {capacity}")
        cells = [f"{by_name[name][capacity]:.0%}" for name in watched]
        cells.append("" if own is None else f"{own[capacity]:.0%}")
        lines.append(f"| {capacity} | {' | '.join(cells)} |")
    return "\n".join(lines)
