"""What docs/diagnosis.md says of how well it works, from the committed results.

`python -m experiments.diagnose.tables` writes it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "diagnosis.md"
RESULTS = ROOT / "experiments" / "results"
MARKED = re.compile(r"(<!-- scores: [^\n]* -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def section(results: Path = RESULTS) -> str:
    """The numbers of both sets side by side, then the scenarios held out, one a line."""
    held_out, tuning = (_read(results / f"diagnose_{name}.json") for name in ("held_out", "tuning"))
    losses = {
        row["scenario"]: row for row in _read(results / "train_scenarios_held_out.json")["rows"]
    }
    return "\n".join([*_numbers(held_out["summary"], tuning["summary"]), *_rows(held_out, losses)])


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text("utf-8"))


def _numbers(held_out: Mapping[str, Any], tuning: Mapping[str, Any]) -> list[str]:
    def line(name: str, value: Any) -> str:
        return f"| {name} | {value(held_out)} | {value(tuning)} |"

    def interval(key: str) -> Any:
        return lambda one: "{:.1%} [{:.1%}, {:.1%}]".format(*one[key].values())

    return [
        "| | held out | for tuning |",
        "| --- | --- | --- |",
        line(
            "pathologies, healthy networks, seeds of each",
            lambda one: f"{one['num_pathologies']}, {one['num_healthy']}, {one['num_seeds']}",
        ),
        *(
            line(f"planted cause in the first {name}", interval(f"recall_in_top_{top}"))
            for top, name in ((1, "finding"), (2, "two"), (3, "three"))
        ),
        line("planted layer named with it", lambda one: f"{one['names_layer']:.1%}"),
        line("healthy networks with a warning or worse", interval("false_alarms")),
        line("that share at most, at 95%", lambda one: f"{one['false_alarms_at_most']:.1%}"),
        line(
            "seconds of a diagnosis, median and largest",
            lambda one: "{median:.1f}, {largest:.1f}".format(**one["seconds"]),
        ),
        "",
        *_names("Missed (not in the first two, in some seed)", held_out["missed"], tuning),
        *_names("Healthy with an alarm, in some seed", held_out["alarms_on_healthy"], tuning),
    ]


def _names(what: str, held_out: Mapping[str, Any], tuning: Mapping[str, Any]) -> list[str]:
    key = "missed" if what.startswith("Missed") else "alarms_on_healthy"

    def shown(found: Mapping[str, Sequence[Sequence[str]]]) -> str:
        return (
            "; ".join(
                f"`{name}` ({len(told)}, told {_causes(told[0])})" for name, told in found.items()
            )
            or "none"
        )

    return [f"{what}, held out: {shown(held_out)}. For tuning: {shown(tuning[key])}.", ""]


def _causes(told: Sequence[str]) -> str:
    return ", ".join(told[:3]) or "nothing"


def _rows(held_out: Mapping[str, Any], losses: Mapping[str, Any]) -> list[str]:
    lines = [
        "| held out | planted | loss after training, counterpart's | told with the first seed "
        "| rank by seed |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in held_out["rows"]:
        own = losses.get(row["scenario"])
        ranks = ", ".join("-" if one is None else str(one) for one in row["ranks"])
        is_healthy = row["planted"] == "healthy"
        lines.append(
            f"| {row['scenario'].removeprefix('held-')} | {row['planted']} | {_losses(own)} "
            f"| {_causes(row['told'][0])} | {'' if is_healthy else ranks} |"
        )
    return [*lines, ""]


def _losses(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""

    def last(one: Mapping[str, float | None]) -> str:
        return "NaN" if one["last"] is None else f"{one['last']:.3g}"

    return last(row["own"]) + (f", {last(row['base'])}" if row["base"] else "")


if __name__ == "__main__":
    text = GUIDE.read_text("utf-8")
    GUIDE.write_text(MARKED.sub(lambda m: m[1] + section() + m[3], text), "utf-8")
