"""What the arms of `grow-planted` came to."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.growth.waist_summary import interval
from experiments.statistics import bootstrap_difference

AGAINST = ("nowhere", "random", "uniform", "narrowest", "gradmax")


def summarise(
    records: Sequence[Mapping[str, Any]], group: str, every: int, target: float
) -> list[dict[str, Any]]:
    """A row per plant, way to add units and arm.

    Args:
        records: of `growing.as_record`, with `kind`, `left`, `how` and `arm`.
        group: the planted layer.
        every: steps from one event to the next.
        target: training loss to be reached, in nats.

    Returns:
        The rows: accuracies and steps to the target by seed, with intervals; the share of the
        events at the planted layer, and at it or the layer that it reads; differences from others.
    """
    before = f"Dense_{int(group.removeprefix('Dense_')) - 1}"
    by_piece = {(r["kind"], r["left"], r["how"], r["arm"]): r["networks"] for r in records}
    rows = []
    for (kind, left, how, arm), networks in by_piece.items():
        grown = [name for one in networks for name in one["grown"] if name is not None]
        accuracies = [one["accuracy"] for one in networks]
        steps = [_steps_to(one["losses"], every, target) for one in networks]
        row: dict[str, Any] = {
            "kind": kind,
            "left": left,
            "how": how,
            "arm": arm,
            "accuracy": accuracies,
            "accuracy_interval": interval(accuracies),
            "steps": steps,
            "steps_interval": interval(steps),
            "hits": grown.count(group) / len(grown) if grown else None,
            "hits_beside": (grown.count(group) + grown.count(before)) / len(grown)
            if grown
            else None,
            "added_parameters": float(np.mean([one["added_parameters"] for one in networks])),
            "widths": np.mean([one["widths"] for one in networks], axis=0).tolist(),
        }
        for other in AGAINST:
            control = by_piece.get((kind, left, "none" if other == "nowhere" else how, other))
            if control and other != arm:
                values = [one["accuracy"] for one in control]
                row[f"over {other}"] = bootstrap_difference(accuracies, values)._asdict()
        rows.append(row)
    return rows


def _steps_to(losses: Sequence[float], every: int, target: float) -> int:
    """Steps until the mean loss of an interval is at the target; all steps where it never is."""
    reached = np.flatnonzero(np.asarray(losses) <= target)
    return every * (int(reached[0]) + 1 if reached.size else len(losses))


def text(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the plants cost, then arms by plants, as Markdown tables."""
    still = [row for row in rows if row["arm"] == "nowhere"]
    grown = [row for row in rows if row["arm"] != "nowhere"]
    mains = list(dict.fromkeys((row["kind"], row["left"]) for row in grown))
    lines = ["| planted, without growth | left of 64 | accuracy [95%] | steps to the target |"]
    lines += ["| --- | --- | --- | --- |"]
    lines += [
        f"| {row['kind']} | {row['left'] or 'all'} | {shown(row['accuracy_interval'])} "
        f"| {row['steps_interval']['mean']:.0f} |"
        for row in still
    ]
    titles = [f"{kind}, {left} left" for kind, left in mains]
    lines += ["", "| where to grow | " + " | ".join(f"{t}: hits | accuracy [95%]" for t in titles)]
    lines[-1] += " |"
    lines += ["| " + " | ".join(["---"] * (1 + 2 * len(mains))) + " |"]
    by_piece = {(row["kind"], row["left"], row["how"], row["arm"]): row for row in rows}
    for how, arm in dict.fromkeys((row["how"], row["arm"]) for row in grown):
        cells = [_cells(by_piece.get((*main, how, arm))) for main in mains]
        name = arm if how == "initialised" else f"{arm} ({how} units)"
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "|"
    return f"{row['hits']:.0%} ({row['hits_beside']:.0%}) | {shown(row['accuracy_interval'])}"


def shown(estimate: Mapping[str, float]) -> str:
    """A mean with its interval."""
    return "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**estimate)
