"""Each arm at its best setting, and what it gains."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.statistics import Estimate, estimate, paired_difference

Record = Mapping[str, Any]
PLAIN, RIVAL, OURS = "plain", "smallest rank", "flow"


def compare(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Picks each arm's setting by mean validation accuracy and compares test accuracies.

    Args:
        records: one per start and arm, as the experiment writes them.

    Returns:
        A row per start, mark and arm: the setting, the means of what was measured, test accuracy
        and its differences from plain training and from the rival without flow, paired by seed.
    """
    rows = []
    for start in dict.fromkeys(record["start"] for record in records):
        arms = {record["arm"]: record["marks"] for record in records if record["start"] == start}
        for index, mark in enumerate(arms[PLAIN]):
            chosen = {arm: best(marks[index]["settings"]) for arm, marks in arms.items()}
            for arm, setting in chosen.items():
                rows.append(
                    {
                        "start": start,
                        "step": mark["step"],
                        "arm": arm,
                        "learning_rate": setting["learning_rate"],
                        "strength": setting["strength"],
                        **{
                            name: float(np.mean(setting[name]))
                            for name in ("validation", "loss", "flow", "smallest_rank")
                        },
                        "test": setting["test"],
                        "accuracy": estimate(setting["test"])._asdict(),
                        **{
                            f"over {other}": paired_difference(
                                setting["test"], chosen[other]["test"]
                            )._asdict()
                            for other in (PLAIN, RIVAL)
                            if other != arm and arm in (OURS, RIVAL, "weight decay")
                        },
                    }
                )
    return rows


def best(settings: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The setting with the highest mean validation accuracy; the first of equal ones."""
    return max(settings, key=lambda setting: np.mean(setting["validation"]))


def text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats the rows as a Markdown table; accuracies in percent, differences in points."""
    header = ["start", "steps", "arm", "learning rate", "strength", "loss", "flow"]
    header += ["test accuracy", f"over {PLAIN}, points", f"over {RIVAL}, points"]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        lines.append(
            [
                row["start"],
                str(row["step"]),
                row["arm"],
                f"{row['learning_rate']:g}",
                f"{row['strength']:g}",
                f"{row['loss']:.3f}",
                f"{row['flow']:.2f}",
                f"{row['accuracy']['mean']:.2%}",
                *(_points(row.get(f"over {other}")) for other in (PLAIN, RIVAL)),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _points(difference: Mapping[str, float] | None) -> str:
    if difference is None:
        return "-"
    mean, low, high = (100 * value for value in Estimate(**difference))
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
