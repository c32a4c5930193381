"""Each arm over its seeds, and what moving units gains over leaving them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.growth.allocation_summary import points
from experiments.statistics import bootstrap_difference

Record = Mapping[str, Any]


def compare(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Compares the arms on each start with no moves and with random ones.

    Args:
        records: one per start and arm.

    Returns:
        A row per start and arm: means over the seeds, and differences paired by seed with 95%
        bootstrap intervals.
    """
    own = {(record["start"], record["arm"]): record["networks"] for record in records}
    rows = []
    for (start, arm), networks in own.items():
        accuracy = _accuracies(networks)
        moves = [move for one in networks for move in one["moves"]]
        row: dict[str, Any] = {
            "start": start,
            "arm": arm,
            "accuracy": float(accuracy.mean()),
            "num_parameters": float(np.mean([one["num_parameters"] for one in networks])),
            "flops": float(np.mean([one["flops"] for one in networks])),
            "widths": np.mean([one["widths"] for one in networks], axis=0).tolist(),
            "num_moves": sum(bool(move["given"]) for move in moves) / len(networks),
            "largest_loss_change": max((move["loss_change"] for move in moves), default=0.0),
        }
        for other in ("nowhere", "random"):
            if arm != other and (start, other) in own:
                control = _accuracies(own[start, other])
                row[f"over {other}"] = bootstrap_difference(accuracy, control)._asdict()
        rows.append(row)
    return rows


def text(rows: Sequence[Record]) -> str:
    """Formats the rows as Markdown tables, one per start; accuracies in percent."""
    lines = []
    for start in dict.fromkeys(row["start"] for row in rows):
        lines += [
            f"From {start}:",
            "",
            "| who moves units | parameters | accuracy | over no moves | over random moves "
            "| widths at the end | moves | largest rise of the loss, nats |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        lines += [f"| {' | '.join(_cells(row))} |" for row in rows if row["start"] == start]
        lines.append("")
    return "\n".join(lines)


def _cells(row: Record) -> list[str]:
    return [
        row["arm"],
        f"{row['num_parameters']:,.0f}",
        f"{100 * row['accuracy']:.1f}",
        points(row.get("over nowhere")),
        points(row.get("over random")),
        ", ".join(f"{width:.0f}" for width in row["widths"]),
        f"{row['num_moves']:.1f}",
        f"{row['largest_loss_change']:.3f}",
    ]


def _accuracies(networks: Sequence[Record]) -> np.ndarray:
    return np.asarray([one["accuracy"] for one in networks])
