"""Barriers of many pairs: means and intervals by width, and as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.merge.paths import middle
from experiments.statistics import Estimate, estimate

Record = Mapping[str, Any]


def by_width(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Estimates over pairs.

    Args:
        records: one per width and pair, as the experiment writes them.

    Returns:
        A row per width, arm and split: number of pairs, the barrier, the accuracy half-way and the
        mean accuracy of the ends.
    """
    rows = []
    for width in dict.fromkeys(record["width"] for record in records):
        pairs = [record["arms"] for record in records if record["width"] == width]
        for arm in pairs[0]:
            for split in pairs[0][arm]:
                own = [arms[arm][split] for arms in pairs]
                ends = [(one["accuracy"][0] + one["accuracy"][-1]) / 2 for one in own]
                rows.append(
                    {
                        "width": width,
                        "arm": arm,
                        "split": split,
                        "pairs": len(own),
                        "barrier": estimate([one["barrier"] for one in own])._asdict(),
                        "accuracy half-way": estimate(
                            [middle(one["accuracy"]) for one in own]
                        )._asdict(),
                        "accuracy of the ends": estimate(ends)._asdict(),
                    }
                )
    return rows


def text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats the rows as a Markdown table."""
    header = ["width", "arm", "split", "pairs", "barrier, nats", "accuracy half-way", "of the ends"]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        barrier = Estimate(**row["barrier"])
        lines.append(
            [
                str(row["width"]),
                row["arm"],
                row["split"],
                str(row["pairs"]),
                f"{barrier.mean:.3f} [{barrier.low:.3f}, {barrier.high:.3f}]",
                f"{row['accuracy half-way']['mean']:.2%}",
                f"{row['accuracy of the ends']['mean']:.2%}",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
