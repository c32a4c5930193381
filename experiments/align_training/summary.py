"""Each way to align, over all repeats, and what it gains over aligning once at the end."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.statistics import Estimate, estimate, paired_difference

Record = Mapping[str, Any]
BASELINE = "once at the end"


def compare(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Compares the ways over the repeats.

    Args:
        records: one per repeat, as `training.repeat` returns them.

    Returns:
        A row per way: test accuracy of the average of a pair and of all, squared distance to the
        reference, and the differences to aligning once at the end, paired by repeat.
    """
    rows = []
    for way in records[0]["ways"]:
        own, base = (
            {name: [record["ways"][key][name] for record in records] for name in names}
            for key, names in ((way, _MEASURES), (BASELINE, _MEASURES))
        )
        rows.append(
            {
                "way": way,
                **{name: estimate(own[name])._asdict() for name in _MEASURES},
                **{
                    f"{name} over {BASELINE}": paired_difference(own[name], base[name])._asdict()
                    for name in _MEASURES
                    if way != BASELINE
                },
            }
        )
    return rows


_MEASURES = ("pair", "all", "distance")


def text(rows: Sequence[Record], records: Sequence[Record]) -> str:
    """Formats the rows as a Markdown table; accuracies in percent, differences in points."""
    header = ["aligned", "mean of two", "mean of all", "squared distance"]
    header += [f"mean of all over {BASELINE}, points"]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        lines.append(
            [
                row["way"],
                _percent(row["pair"]),
                _percent(row["all"]),
                f"{row['distance']['mean']:.1f}",
                _points(row.get(f"all over {BASELINE}")),
            ]
        )
    single = estimate([float(np.mean(record["single"])) for record in records])
    changes = [record["change of the last 50 losses"] for record in records]
    return "\n".join(
        [
            *(f"| {' | '.join(line)} |" for line in lines),
            f"A single network: {_percent(single._asdict())}. In the last 50 steps the mean loss "
            f"with and without alignment is {max(changes):.2g} apart at most.",
        ]
    )


def _percent(value: Mapping[str, float]) -> str:
    mean, low, high = (100 * bound for bound in Estimate(**value))
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def _points(difference: Mapping[str, float] | None) -> str:
    if difference is None:
        return "-"
    mean, low, high = (100 * bound for bound in Estimate(**difference))
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
