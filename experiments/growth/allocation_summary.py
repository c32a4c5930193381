"""Each arm over its seeds: what it reached, and how much of that is the widths, not the growing."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.statistics import Estimate, bootstrap_difference

Record = Mapping[str, Any]


def compare(grown: Sequence[Record], fresh: Sequence[Record]) -> list[dict[str, Any]]:
    """Compares the arms on each start with uniform scaling and with GradMax.

    Args:
        grown: a record per start and arm.
        fresh: the same of the final widths, trained from the start.

    Returns:
        A row per start and arm: means over the seeds, and differences paired by seed with 95%
        bootstrap intervals.
    """
    own = {(record["start"], record["arm"]): record["networks"] for record in grown}
    scratch = {(record["start"], record["arm"]): record["networks"] for record in fresh}
    rows = []
    for (start, arm), networks in own.items():
        accuracy = _of(networks, "accuracy")
        row: dict[str, Any] = {
            "start": start,
            "arm": arm,
            "accuracy": float(accuracy.mean()),
            "num_parameters": float(_of(networks, "num_parameters").mean()),
            "flops": float(_of(networks, "flops").mean()),
            "widths": np.mean([one["widths"] for one in networks], axis=0).tolist(),
        }
        for other in ("uniform", "gradmax"):
            if arm != other and (start, other) in own:
                control = _of(own[start, other], "accuracy")
                row[f"over {other}"] = bootstrap_difference(accuracy, control)._asdict()
        if (start, arm) in scratch:
            same = scratch[start, arm]
            for measure in ("equal_steps", "equal_flops"):
                values = _of(same, measure)
                row[measure] = float(values.mean())
                row[f"over {measure}"] = bootstrap_difference(accuracy, values)._asdict()
            if arm != "uniform" and (start, "uniform") in scratch:
                row["widths over uniform"] = bootstrap_difference(
                    _of(same, "equal_steps"), _of(scratch[start, "uniform"], "equal_steps")
                )._asdict()
        rows.append(row)
    return rows


def text(rows: Sequence[Record]) -> str:
    """Formats the rows as Markdown tables, one per start; accuracies in percent."""
    lines = []
    for start in dict.fromkeys(row["start"] for row in rows):
        lines += [
            f"From {start}:",
            "",
            "| where to grow | parameters | training, GFLOP | accuracy | over uniform "
            "| over GradMax | widths at the end | these from scratch: equal steps, equal FLOPs "
            "| widths alone over uniform's |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for row in rows:
            if row["start"] == start:
                lines.append(f"| {' | '.join(_cells(row))} |")
        lines.append("")
    return "\n".join(lines)


def points(difference: Mapping[str, float] | None) -> str:
    """A difference of shares and its interval, in percentage points; "-" for none."""
    if difference is None:
        return "-"
    mean, low, high = (100 * bound for bound in Estimate(**difference))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def _cells(row: Record) -> list[str]:
    fresh = "-"
    if "equal_steps" in row:
        fresh = f"{100 * row['equal_steps']:.1f}, {100 * row['equal_flops']:.1f}"
    return [
        row["arm"],
        f"{row['num_parameters']:,.0f}",
        f"{row['flops'] / 1e9:.1f}",
        f"{100 * row['accuracy']:.1f}",
        points(row.get("over uniform")),
        points(row.get("over gradmax")),
        ", ".join(f"{width:.0f}" for width in row["widths"]),
        fresh,
        points(row.get("widths over uniform")),
    ]


def _of(networks: Sequence[Record], measure: str) -> np.ndarray:
    return np.asarray([one[measure] for one in networks], float)
