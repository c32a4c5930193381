"""What docs/claims.md says was measured, from the committed results.

`python -m experiments.claims.tables` writes it.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.claims.arms import advised_place
from experiments.claims.summary import best_of, cells, has_rates, interval
from experiments.statistics import bootstrap_difference

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "claims.md"
RESULTS = ROOT / "experiments" / "results"
MARKED = re.compile(r"(<!-- claims: [^\n]* -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def section(results: Path = RESULTS) -> str:
    """Every committed study in turn: how it was made, what it says, all of its arms."""
    files = sorted(results.glob("claims_*.json"))
    parts = [_study(json.loads(file.read_text("utf-8")), file.stem) for file in files]
    return "\n".join(parts) or "No study has been run yet.\n"


def _study(found: Mapping[str, Any], name: str) -> str:
    config = found["config"]
    lines = [
        f"### {config['dataset']}, protocol `{config['protocol']}`",
        "",
        f"{config['train_images']:,} training images of {config['image_size']} x "
        f"{config['image_size']} pixels, first convolution {config['width']} channels wide, "
        f"{config['steps']:,} steps of batch {config['batch_size']}, "
        f"{len(config['tuning_seeds'])} seeds to choose the learning rate and "
        f"{len(config['seeds'])} others to compare. {found['num_runs']:,} runs, "
        f"{found['cpu_hours']:.1f} CPU hours. Numbers: "
        f"[`{name}.json`](../experiments/results/{name}.json).",
        "",
        f"{found['num_comparisons']} comparisons with the plain optimizer were made, so about "
        f"{found['num_comparisons'] / 20:.0f} would lie outside their 95% interval by chance. "
        f"Of them {_num_outside(found, 1)} lie above theirs and {_num_outside(found, -1)} below; "
        f"{_num_discoveries(found)} have q < 0.05.",
        "",
        _winners(found),
        "",
        *_overview(found),
        f"![all differences](../experiments/results/{name}_differences.png)",
        "",
    ]
    for each in found["comparisons"]:
        picture = f"{name}_curves-{each['scenario']}-{each['optimizer']}.png"
        lines += [
            f"![{each['scenario']}, {each['optimizer']}: curves and cut]"
            f"(../experiments/results/{picture})",
            "",
            "<details markdown>",
            f"<summary>{each['scenario']}, {each['optimizer']}: every arm</summary>",
            "",
            *_table(each),
            "</details>",
            "",
        ]
    if has_rates(found):
        lines += [*_by_rate(found), f"![by rate](../experiments/results/{name}_rates.png)", ""]
    return "\n".join(lines)


def _compared(found: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [
        (f"{name} ({each['scenario']}, {each['optimizer']})", own)
        for each in found["comparisons"]
        for name, own in each["arms"].items()
        if "minus_plain" in own
    ]


def _num_outside(found: Mapping[str, Any], sign: int) -> int:
    nearer = "low" if sign > 0 else "high"
    return sum(sign * own["minus_plain"]["accuracy"][nearer] > 0 for _, own in _compared(found))


def _num_discoveries(found: Mapping[str, Any]) -> int:
    return sum(own["minus_plain"]["accuracy"]["q"] < 0.05 for _, own in _compared(found))


def _winners(found: Mapping[str, Any]) -> str:
    names = [name for name, own in _compared(found) if own.get("beats_plain_and_every_control")]
    return "Above the plain optimizer and every control, beyond each interval: " + (
        ", ".join(names) + "." if names else "no setting, in no scenario."
    )


def _overview(found: Mapping[str, Any]) -> list[str]:
    """The study's arm, ours, and the setting and the control that validation images prefer."""
    lines = [
        "| network, optimizer | plain, % | study minus plain | default minus plain "
        "| best setting minus plain | best control minus plain | best setting minus best control |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in found["comparisons"]:
        arms = each["arms"]
        advised = advised_place(each["optimizer"])
        setting, control = best_of(arms, "setting"), best_of(arms, "control")
        row = [
            f"{each['scenario']}, {each['optimizer']}",
            f"{100 * float(np.mean(arms['plain']['accuracy'])):.1f}",
            _minus_plain(arms, "study, before"),
            _minus_plain(arms, f"default, {advised}"),
            _named(setting, _minus_plain(arms, setting)),
            _named(control, _minus_plain(arms, control)),
            interval(arms[setting]["minus_control"]["accuracy"]) if setting and control else "",
        ]
        lines.append(f"| {' | '.join(row)} |")
    return [*lines, ""]


def _minus_plain(arms: Mapping[str, Any], name: str | None) -> str:
    return interval(arms[name]["minus_plain"]["accuracy"]) if name and name in arms else ""


def _named(name: str | None, value: str) -> str:
    return f"{name}: {value}" if name else ""


def _table(each: Mapping[str, Any]) -> list[str]:
    best = best_of(each["arms"], "control")
    lines = [
        *([f"Best control on validation images: {best}.", ""] if best else []),
        "| arm | rate | test accuracy, % | area, % | minus plain, points | q "
        "| minus best control, points | area minus plain, points |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, own in each["arms"].items():
        area = interval(own["minus_plain"]["area"]) if "minus_plain" in own else ""
        lines.append(f"| {name} | {' | '.join([*cells(own), area])} |")
    return [*lines, "", *_multipliers(each), ""]


def _multipliers(each: Mapping[str, Any]) -> list[str]:
    """Where the cut was, how often it moved, and what it did to relative step lengths."""
    lines = [
        "| arm | in the cut most (share of its blocks, mean over diagnoses) | diagnoses at which "
        "the cut moved | cut unique | largest mean multiplier | relative step there / plain's |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    plain = each["arms"]["plain"]
    for name, own in each["arms"].items():
        if own["family"] not in ("study", "default", "setting") or not own["means"]:
            continue
        cut, means, unique = (own["means"][key] for key in ("cut", "multiplier", "unique"))
        place = int(np.argmax(cut))
        layer = own["layers"][place]
        step = _relative_step(own, layer) / _relative_step(plain, layer)
        lines.append(
            f"| {name} | `{layer}` ({cut[place]:.2f}) | {own['means']['moved']:.0%} "
            f"| {unique:.0%} | {max(means):.2f} | {step:.2f} |"
        )
    return lines


def _relative_step(own: Mapping[str, Any], layer: str) -> float:
    """Mean over diagnoses of |update| / |weights| of a layer."""
    return own["means"]["update"][own["matrices"].index(layer)]


def _by_rate(found: Mapping[str, Any]) -> list[str]:
    """Each arm at one rate for all: what a comparison without tuning would have found."""
    num_seeds = len(found["config"]["tuning_seeds"])
    lines = [
        f"**At one learning rate for all arms** (validation accuracy in %, {num_seeds} seeds, "
        "differences in points with 95% bootstrap intervals)",
        "",
    ]
    for each in found["comparisons"]:
        plain, *others = each["arms"].items()
        names = [f"{name} minus {plain[0]}" for name, _ in others]
        lines += [
            f"| {each['scenario']}, {each['optimizer']}: rate | {plain[0]} | {' | '.join(names)} |",
            "| --- " * (2 + len(others)) + "|",
        ]
        for rate, values in plain[1]["validation"].items():
            cells_of_others = [
                interval(bootstrap_difference(own["validation"][rate], values)._asdict())
                for _, own in others
            ]
            row = [rate, f"{100 * float(np.mean(values)):.1f}", *cells_of_others]
            lines.append(f"| {' | '.join(row)} |")
        lines.append("")
    return lines


if __name__ == "__main__":
    text = PAGE.read_text("utf-8")
    PAGE.write_text(MARKED.sub(lambda m: m[1] + section() + m[3], text), "utf-8")
