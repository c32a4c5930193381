"""From the runs to the comparison: chosen rates, paired differences, what survives many tests."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from experiments.claims.arms import advised_place
from experiments.claims.protocols import Protocol
from experiments.statistics import bootstrap_difference, estimate

METHOD = (
    "mean over seeds; 95% percentile bootstrap intervals of differences paired by seed (from few "
    "seeds they are too narrow); q: Benjamini-Hochberg over all comparisons with the plain "
    "optimizer, of paired t tests"
)
MIN_SEEDS = 5  # for an interval
Records = Mapping[Any, Mapping[str, Any]]


def chosen_rates(records: Records) -> dict[Any, float]:
    """The rate with the best mean validation accuracy by (scenario, optimizer, arm).

    Of equal ones it is the smaller.
    """
    return {
        arm: max(sorted(table), key=lambda rate: np.mean(table[rate]))
        for arm, table in tuning_tables(records).items()
    }


def tuning_tables(records: Records) -> dict[tuple[str, str, str], dict[float, list[float]]]:
    """Validation accuracies of each arm by learning rate, in the order of the seeds."""
    tables: dict[tuple[str, str, str], dict[float, list[float]]] = {}
    for piece in sorted(records):
        *arm, rate, _ = piece
        table = tables.setdefault(tuple(arm), {})
        table.setdefault(rate, []).append(records[piece]["accuracy"])
    return tables


def validated(own: Mapping[str, Any]) -> float:
    """Mean validation accuracy of an arm at the rate chosen for it."""
    return max(float(np.mean(values)) for values in own["validation"].values())


def summarised(protocol: Protocol, config: Mapping[str, Any], records: Records) -> dict[str, Any]:
    """The comparison of all arms as JSON values.

    Args:
        protocol: Sizes; says which seeds choose rates.
        config: What was asked for.
        records: A record for every run, those that choose rates and those that are compared.

    Returns:
        `comparisons`: for each scenario and optimizer its arms, with `minus_plain` and
        `minus_control` (of the control with the best validation accuracy).
    """
    tuning = {piece: one for piece, one in records.items() if piece[4] in protocol.tuning_seeds}
    tables, rates = tuning_tables(tuning), chosen_rates(tuning)
    comparisons = []
    for scenario, optimizer in itertools.product(protocol.scenarios, protocol.optimizers):
        arms = {}
        for arm in protocol.arms_of(scenario, optimizer):
            key = (scenario, optimizer, arm.name)
            runs = [records[(*key, rates[key], seed)] for seed in protocol.seeds]
            table = tables[key]
            arms[arm.name] = {
                "family": arm.family,
                "rate": rates[key],
                "rate_is_at_edge": rates[key] in (min(table), max(table)),
                "validation": {f"{rate:g}": values for rate, values in sorted(table.items())},
                **_measured(runs),
            }
        _compare(arms)
        for name in arms.keys() - {*followed(arms, optimizer)}:
            del arms[name]["history"]
        comparisons.append({"scenario": scenario, "optimizer": optimizer, "arms": arms})
    _correct(comparisons)
    seconds = [one["cpu_seconds"] for one in records.values()]
    return {
        "config": dict(config),
        "statistics": METHOD,
        "num_runs": len(records),
        "num_comparisons": sum(len(each["arms"]) - 1 for each in comparisons),
        "cpu_hours": round(float(np.sum(seconds)) / 3600, 3),
        "comparisons": comparisons,
    }


def best_of(arms: Mapping[str, Any], family: str) -> str | None:
    """The arm of a family with the best validation accuracy, if it has any arm."""
    own = {name: arm for name, arm in arms.items() if arm["family"] == family}
    return max(own, key=lambda name: validated(own[name]), default=None)


def followed(arms: Mapping[str, Any], optimizer: str) -> list[str]:
    """The arms whose cut is kept diagnosis by diagnosis: the study's, ours, the best setting."""
    place = advised_place(optimizer)
    names = (f"study, {place}", f"default, {place}", best_of(arms, "setting"))
    return [name for name in names if name and name in arms]


def has_rates(found: Mapping[str, Any]) -> bool:
    """Whether as many seeds were trained at each rate as it takes to compare."""
    return len(found["config"]["tuning_seeds"]) >= MIN_SEEDS


def _measured(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Numbers of the seeds of an arm, and means over them; the cut also by diagnosis."""
    curves = np.asarray([run["curve"] for run in runs])
    diagnoses = [run["diagnoses"] for run in runs]
    shortest = min(len(each.get("step", ())) for each in diagnoses)
    history = {
        name: np.mean([each[name][:shortest] for each in diagnoses], axis=0)
        for name in ("step", "cut", "multiplier", "update", "unique")
        if shortest
    }
    means = {name: _rounded(values.mean(0)) for name, values in history.items()}
    if shortest:
        means["moved"] = round(float(np.mean([_moved(each["cut"]) for each in diagnoses])), 4)
    losses = [np.nan if run["loss"] is None else run["loss"] for run in runs]
    return {
        "accuracy": [run["accuracy"] for run in runs],
        "area": curves.mean(1).round(5).tolist(),
        "loss": losses,
        "curves": curves.round(4).tolist(),
        "layers": runs[0]["layers"],
        "matrices": runs[0]["matrices"],
        "means": means,
        "history": {name: _rounded(history[name]) for name in ("step", "cut") if shortest},
        "widths": [run["widths"] for run in runs] if runs[0]["widths"] else None,
        "diverged_seeds": [i for i, loss in enumerate(losses) if not np.isfinite(loss)],
        "cpu_seconds": float(np.mean([run["cpu_seconds"] for run in runs])),
    }


def _moved(cuts: Sequence[Sequence[float]]) -> float:
    """Share of the diagnoses whose cut is not that of the one before, by share of the layers."""
    return float(np.any(np.diff(cuts, axis=0) != 0, axis=1).mean()) if len(cuts) > 1 else 0.0


def _rounded(values: np.ndarray) -> Any:
    """Four digits, which is more than the seeds agree in."""
    return np.vectorize(lambda value: float(f"{value:.4g}"))(values).tolist()


def _compare(arms: dict[str, dict[str, Any]]) -> None:
    """Differences from the plain optimizer and from the controls, written into the arms."""
    controls = [name for name, own in arms.items() if own["family"] == "control"]
    best = best_of(arms, "control")
    for name, own in arms.items():
        if name == "plain":
            continue
        own["minus_plain"] = {
            measure: _difference(own[measure], arms["plain"][measure])
            for measure in ("accuracy", "area")
        }
        if own["family"] == "control" or best is None:
            continue
        lows = {
            each: _difference(own["accuracy"], arms[each]["accuracy"])["low"] for each in controls
        }
        own["minus_control"] = {
            "control": best,
            "accuracy": _difference(own["accuracy"], arms[best]["accuracy"]),
        }
        own["beats_plain_and_every_control"] = (
            own["minus_plain"]["accuracy"]["low"] > 0 and min(lows.values()) > 0
        )


def _difference(treated: Sequence[float], control: Sequence[float]) -> dict[str, float]:
    differences = np.subtract(treated, control)
    is_testable = len(differences) > 1 and np.ptp(differences) > 1e-9
    p = float(np.asarray(stats.ttest_1samp(differences, 0))[1]) if is_testable else 1.0
    return bootstrap_difference(treated, control)._asdict() | {"p": p}


def _correct(comparisons: Sequence[Mapping[str, Any]]) -> None:
    """False discovery rates over all comparisons of final accuracy with the plain optimizer."""
    found = [
        own["minus_plain"]["accuracy"]
        for each in comparisons
        for name, own in each["arms"].items()
        if name != "plain"
    ]
    if found:
        corrected = stats.false_discovery_control([each["p"] for each in found])
        for each, q in zip(found, corrected, strict=True):
            each["q"] = float(q)


def text(found: Mapping[str, Any]) -> str:
    """The comparison as one table per scenario and optimizer."""
    parts = []
    for each in found["comparisons"]:
        lines = [
            f"{each['scenario']}, {each['optimizer']}: test accuracy in %, differences in points",
            f"{'arm':24} {'rate':>8} {'accuracy':>15} {'area':>6} {'minus plain':>22} {'q':>5} "
            f"{'minus best control':>22}",
        ]
        lines += [
            "{:24} {:>8} {:>15} {:>6} {:>22} {:>5} {:>22}".format(name, *cells(own)).rstrip()
            for name, own in each["arms"].items()
        ]
        best = best_of(each["arms"], "control")
        lines.append(f"best control by validation: {best}" if best else "no control")
        parts.append("\n".join(lines))
    winners = [
        f"{name} ({each['scenario']}, {each['optimizer']})"
        for each in found["comparisons"]
        for name, own in each["arms"].items()
        if own.get("beats_plain_and_every_control")
    ]
    parts.append(
        f"{found['num_runs']} runs, {found['cpu_hours']:.2f} CPU hours; {found['num_comparisons']} "
        f"comparisons with plain: by chance about {found['num_comparisons'] / 20:.0f} would lie "
        f"outside their 95% interval.\n{found['statistics']}.\n"
        f"above plain and every control: {', '.join(winners) or 'none'}.\n"
        "rate*: the best of the grid is at its edge."
    )
    return "\n\n".join(parts)


def cells(own: Mapping[str, Any]) -> list[str]:
    """Rate, accuracy, area, difference from plain, q and difference from the best control."""
    mean, low, high = (100 * value for value in estimate(own["accuracy"]))
    row = [
        f"{own['rate']:g}{'*' if own['rate_is_at_edge'] else ''}",
        f"{mean:.1f} ± {(high - low) / 2:.1f}",
        f"{100 * float(np.mean(own['area'])):.1f}",
    ]
    if "minus_plain" in own:
        difference = own["minus_plain"]["accuracy"]
        row += [interval(difference), f"{difference['q']:.2f}"]
    else:
        row += ["", ""]
    control = own.get("minus_control")
    return [*row, interval(control["accuracy"]) if control else ""]


def interval(difference: Mapping[str, float]) -> str:
    """A difference in points with its interval."""
    mean, low, high = (100 * difference[name] for name in ("mean", "low", "high"))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
