"""The comparison of a run folder's arms: `summary.json`, and the same as text."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import runs
from experiments.statistics import METHOD, estimate, paired_difference

_MEASURES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")


def records(folder: Path, arm: str, kind: str) -> list[list[dict[str, Any]]]:
    """All records of a kind (`"epoch"` or `"diagnosis"`) of an arm, one list per seed."""
    seeds = range(json.loads((folder / "config.json").read_text())["config"]["seeds"])
    logs = [runs.read_lines(folder / arm / f"seed-{seed}" / "metrics.jsonl") for seed in seeds]
    return [[record for record in log if record["kind"] == kind] for log in logs]


def curves(folder: Path, arm: str, measure: str) -> np.ndarray:
    """A measure by seed and epoch, `f64[num_seeds, num_epochs]`.

    A run that ended early (its loss was not finite) keeps its last value to the end.
    """
    rows = [
        [np.nan if record[measure] is None else record[measure] for record in log]
        for log in records(folder, arm, "epoch")
    ]
    length = max(len(row) for row in rows)
    return np.array([row + row[-1:] * (length - len(row)) for row in rows], np.float64)


def cut_shares(folder: Path, arm: str) -> tuple[list[str], list[int], np.ndarray]:
    """How much of each layer was in the cut, averaged over seeds.

    Args:
        folder: Run folder.
        arm: An arm with PFN.

    Returns:
        Layers in forward order, steps of the diagnoses, and the share of the layer's blocks in the
        cut, `f64[num_layers, num_diagnoses]`.
    """
    logs = records(folder, arm, "diagnosis")
    longest = max(logs, key=len)
    if not longest:
        return [], [], np.zeros((0, 0))
    layers, steps = list(longest[0]["cut"]), [record["step"] for record in longest]
    shares = np.full((len(logs), len(layers), len(steps)), np.nan)
    for seed, log in enumerate(logs):
        for i, record in enumerate(log):
            shares[seed, :, i] = [record["cut"][layer] for layer in layers]
    return layers, steps, np.nanmean(shares, axis=0)


def write_summary(folder: Path) -> None:
    """Compute the comparison from the metrics of all arms and write `summary.json`."""
    config = json.loads((folder / "config.json").read_text())["config"]
    arms = {}
    for arm in config["arms"]:
        by_measure = {measure: curves(folder, arm, measure) for measure in _MEASURES}
        final = {measure: values[:, -1] for measure, values in by_measure.items()}
        epochs = records(folder, arm, "epoch")
        entry: dict[str, Any] = {
            "final": {
                name: estimate(values)._asdict() | {"seeds": values.tolist()}
                for name, values in final.items()
            },
            "by_epoch": {name: values.mean(0).tolist() for name, values in by_measure.items()},
            "diverged_seeds": [i for i, log in enumerate(epochs) if not log[-1]["is_finite"]],
        }
        if arm != "plain" and "plain" in config["arms"]:
            entry["minus_plain"] = {
                name: paired_difference(values, curves(folder, "plain", name)[:, -1])._asdict()
                for name, values in final.items()
            }
        if arm != "plain":
            layers, steps, shares = cut_shares(folder, arm)
            diagnoses = [record for log in records(folder, arm, "diagnosis") for record in log]
            entry["bottleneck"] = {
                "steps": steps,
                "share_of_layer_in_cut": dict(zip(layers, shares.tolist(), strict=True)),
                "certified": _share(diagnoses, "certified"),
                "unique": _share(diagnoses, "unique"),
            }
        arms[arm] = entry
    overhead_file = folder / "overhead.json"
    overhead = json.loads(overhead_file.read_text()) if overhead_file.exists() else {}
    runs.write_json(
        folder / "summary.json",
        {"config": config, "statistics": METHOD, "arms": arms, "overhead": overhead},
    )


def _share(diagnoses: Sequence[dict[str, Any]], key: str) -> float | None:
    return float(np.mean([record[key] for record in diagnoses])) if diagnoses else None


def text(folder: Path) -> str:
    """The comparison in `summary.json` as text: curves, bottlenecks, final intervals."""
    summary = json.loads((folder / "summary.json").read_text())
    config, arms = summary["config"], summary["arms"]
    title = "{dataset}, {scenario}, {optimizer} with learning rate {learning_rate}: {seeds} seeds"
    parts = [title.format(**config), _epoch_table(arms)]
    for arm, entry in arms.items():
        if "bottleneck" in entry:
            parts.append(_bottlenecks(arm, entry["bottleneck"]))
    parts += [f"{_final_table(arms)}\n95% intervals: {summary['statistics']}"]
    if summary["overhead"]:
        parts.append(_time_table(summary["overhead"]))
    for arm, entry in arms.items():
        if seeds := entry["diverged_seeds"]:
            parts.append(f"{arm}: the loss was not finite in seeds {seeds}; they ended early.")
    return "\n\n".join(parts)


def _epoch_table(arms: dict[str, Any]) -> str:
    longest = max(len(entry["by_epoch"]["test_loss"]) for entry in arms.values())
    rows = [["epoch", *(f"{arm} accuracy / loss" for arm in arms)]]
    for epoch in _spread(longest, 10):
        cells = []
        for entry in arms.values():
            by_epoch = entry["by_epoch"]
            last = min(epoch, len(by_epoch["test_loss"]) - 1)
            accuracy, loss = by_epoch["test_accuracy"][last], by_epoch["test_loss"][last]
            cells.append(f"{_percent(accuracy)} / {_number(loss)}")
        rows.append([str(epoch + 1), *cells])
    return f"test set, mean over seeds\n{_aligned(rows)}"


def _bottlenecks(arm: str, bottleneck: dict[str, Any]) -> str:
    steps, shares = bottleneck["steps"], bottleneck["share_of_layer_in_cut"]
    if not steps:
        return f"{arm}: no diagnosis, the run is shorter than the steps between two"
    found: list[tuple[str, list[int]]] = []  # layers in the cut, steps of diagnoses in a row
    for i, step in enumerate(steps):
        rows = sorted(((row[i], layer) for layer, row in shares.items() if row[i]), reverse=True)
        named = ", ".join(f"{layer} {share:.0%}" for share, layer in rows[:4]) or "none"
        if found and found[-1][0] == named:
            found[-1][1].append(step)
        else:
            found.append((named, [step]))
    lines = [
        [f"  step {first}" if first == last else f"  steps {first} to {last}", named]
        for named, (first, *_, last) in ((named, (run[0], *run)) for named, run in found)
    ]
    shown = [lines[i] for i in _spread(len(lines), 8)]
    return (
        f"{arm}: bottleneck layers, share of blocks in the cut, mean over seeds (of the diagnoses, "
        f"{bottleneck['certified']:.0%} are certified, {bottleneck['unique']:.0%} unique)\n"
        + _aligned(shown)
    )


def _final_table(arms: dict[str, Any]) -> str:
    rows = [["last epoch", "test accuracy", "test loss", "accuracy - plain", "loss - plain"]]
    for arm, entry in arms.items():
        row = [arm]
        row.append(_interval(entry["final"]["test_accuracy"], "{:.2f}", scale=100, unit="%"))
        row.append(_interval(entry["final"]["test_loss"], "{:.4f}"))
        if difference := entry.get("minus_plain"):
            row.append(_interval(difference["test_accuracy"], "{:+.2f}", scale=100, unit=" points"))
            row.append(_interval(difference["test_loss"], "{:+.4f}"))
        rows.append(row + [""] * (len(rows[0]) - len(row)))
    return _aligned(rows)


def _time_table(overhead: dict[str, Any]) -> str:
    rows = [["time per step", "amortised", "of plain", "between diagnoses", "diagnosing"]]
    for arm, times in overhead.items():
        ratio = times["ratio_to_plain"]
        rows.append([arm, _milliseconds(times["step_seconds"]), f"{ratio:.3f}" if ratio else ""])
        for kind in ("quiet", "diagnosing"):
            seconds = times.get(f"{kind}_step_seconds")
            rows[-1].append("" if seconds is None else _milliseconds(seconds))
    return _aligned(rows)


def _interval(value: dict[str, Any], form: str, *, scale: float = 1, unit: str = "") -> str:
    mean, low, high = (
        "not finite" if value[key] is None else form.format(scale * value[key])
        for key in ("mean", "low", "high")
    )
    return f"{mean}{unit}" if value["low"] is None else f"{mean}{unit} [{low}, {high}]"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms"


def _percent(value: float) -> str:
    return f"{100 * value:.2f}%"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"


def _spread(length: int, at_most: int) -> list[int]:
    """Evenly spaced indices that end with the last."""
    return list(range(length - 1, -1, -math.ceil(length / at_most)))[::-1]


def _aligned(rows: Iterable[Sequence[str]]) -> str:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
