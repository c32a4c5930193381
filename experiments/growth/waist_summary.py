"""What the arms of `grow-waist` came to."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.growth.programs import Sizes
from experiments.statistics import bootstrap_difference


def summarise(records: Sequence[Mapping[str, Any]], sizes: Sizes) -> list[dict[str, Any]]:
    """A row per arm and way to add units.

    Args:
        records: of `growing.as_record`, with `how` and `arm`.
        sizes: before growth.

    Returns:
        The rows: accuracies by seed, mean and interval, widths, parameters, share of the events at
        the waist, differences from other arms.
    """
    waist = int(np.argmin(sizes[1:-1]))
    by_piece = {(record["how"], record["arm"]): record["networks"] for record in records}
    rows = []
    for (how, arm), networks in by_piece.items():
        accuracies = [one["accuracy"] for one in networks]
        grown = [group for one in networks for group in one["grown"] if group is not None]
        row: dict[str, Any] = {
            "how": how,
            "arm": arm,
            "accuracy": accuracies,
            "interval": interval(accuracies),
            "widths": np.mean([one["widths"] for one in networks], axis=0).tolist(),
            "waist": float(np.mean([one["widths"][waist] for one in networks])),
            "waist_course": _course(networks, f"Dense_{waist}", sizes[1 + waist]),
            "losses": np.mean([one["losses"] for one in networks], axis=0).tolist(),
            "added_parameters": float(np.mean([one["added_parameters"] for one in networks])),
            "flops": float(np.mean([one["flops"] for one in networks])),
            "hits": grown.count(f"Dense_{waist}") / len(grown) if grown else None,
        }
        for other in ("nowhere", "uniform", "narrowest"):
            control = by_piece.get((how, other)) or by_piece.get(("none", other))
            if control and other != arm:
                values = [one["accuracy"] for one in control]
                row[f"over {other}"] = bootstrap_difference(accuracies, values)._asdict()
        rows.append(row)
    return rows


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean with its 95% bootstrap interval."""
    return bootstrap_difference(values, np.zeros(len(values)))._asdict()


def _course(networks: Sequence[Mapping[str, Any]], group: str, start: int) -> list[float]:
    """Mean width of a group after each event."""
    added = [
        [
            number if name == group else 0
            for name, number in zip(one["grown"], one["units"], strict=True)
        ]
        for one in networks
    ]
    return [float(start), *(start + np.cumsum(np.mean(added, axis=0))).tolist()]


def text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a Markdown table, arms by ways to add units."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    by_piece = {(row["how"], row["arm"]): row for row in rows}
    lines = [
        "| where to grow | fresh: accuracy [95%] | over uniform [95%] | waist | parameters added "
        "| split: accuracy [95%] | over uniform [95%] | equal parameters: accuracy [95%] | waist |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for arm in arms:
        fresh = by_piece.get(("fresh", arm)) or by_piece.get(("none", arm))
        split, equal = by_piece.get(("split", arm)), by_piece.get(("equal parameters", arm))
        cells = [
            arm,
            _shown(fresh, "interval"),
            _shown(fresh, "over uniform"),
            "" if fresh is None else f"{fresh['waist']:.1f}",
            "" if fresh is None else f"{fresh['added_parameters']:.0f}",
            _shown(split, "interval"),
            _shown(split, "over uniform"),
            _shown(equal, "interval"),
            "" if equal is None else f"{equal['waist']:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(row: Mapping[str, Any] | None, name: str) -> str:
    if row is None or name not in row:
        return ""
    return "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**row[name])
