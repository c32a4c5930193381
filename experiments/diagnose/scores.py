"""How well diagnoses name what was planted."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from experiments.diagnose.scenario import Scenario
from experiments.statistics import Estimate
from pfn_optax.diagnosis import Cause, Diagnosis, Severity

NOTHING = "nothing"
HEALTHY = "healthy"


def record(diagnosis: Diagnosis) -> dict[str, Any]:
    """What scores need of a diagnosis, as JSON values."""
    return {
        "seconds": round(diagnosis.seconds, 3),
        "skipped": {check.name: check.skipped for check in diagnosis.skipped},
        "findings": [
            {
                "cause": finding.cause.value,
                "severity": finding.severity.name,
                "layers": list(finding.layers),
                "summary": finding.summary,
                "follows_from": finding.follows_from and finding.follows_from.value,
            }
            for finding in diagnosis.findings
        ],
    }


def alarms(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The findings of a record that are more than notes, in the order they are told."""
    return [one for one in found["findings"] if Severity[one["severity"]] >= Severity.WARNING]


def rank(scenario: Scenario, found: Mapping[str, Any]) -> int | None:
    """Which finding, from 1, is the first that names the planted cause; notes do not count."""
    for number, one in enumerate(alarms(found), 1):
        if Cause(one["cause"]) in scenario.causes:
            return number
    return None


def names_layer(scenario: Scenario, found: Mapping[str, Any]) -> bool:
    """Whether the first finding that names the cause names a layer where it is planted too."""
    number = rank(scenario, found)
    if number is None:
        return False
    named = alarms(found)[number - 1]["layers"]
    return any(f"/{planted}/" in f"/{layer}/" for planted in scenario.layers for layer in named)


def scores(
    scenarios: Mapping[str, Scenario], found: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """Recall and false alarms with intervals, seconds, confusion, and what was missed.

    Args:
        scenarios: by name.
        found: the records of each, one per seed.

    Returns:
        As JSON values. Intervals are percentile bootstraps over scenarios, since the seeds of one
        scenario are much alike.
    """
    planted = {name: one for name, one in scenarios.items() if not one.is_healthy}
    healthy = [name for name, one in scenarios.items() if one.is_healthy]
    ranks = {name: [rank(one, own) for own in found[name]] for name, one in planted.items()}
    result: dict[str, Any] = {
        "num_pathologies": len(planted),
        "num_healthy": len(healthy),
        "num_seeds": max((len(one) for one in found.values()), default=0),
    }
    for top in (1, 2, 3):
        shares = [
            np.mean([one is not None and one <= top for one in own]) for own in ranks.values()
        ]
        result[f"recall_in_top_{top}"] = bootstrap(shares)._asdict()
    told = [
        names_layer(planted[name], own)
        for name, records in found.items()
        if name in planted and planted[name].layers
        for own in records
        if rank(planted[name], own) is not None
    ]
    result["names_layer"] = float(np.mean(told)) if told else None
    shares = [np.mean([bool(alarms(own)) for own in found[name]]) for name in healthy]
    result["false_alarms"] = bootstrap(shares)._asdict()
    result["false_alarms_at_most"] = upper_bound(sum(map(bool, shares)), len(shares))
    seconds = [own["seconds"] for records in found.values() for own in records]
    result["seconds"] = {
        "median": float(np.median(seconds)),
        "largest": float(np.max(seconds)),
    }
    result["missed"] = {
        name: [_told(own) for own, one in zip(found[name], own_ranks, strict=True) if _far(one)]
        for name, own_ranks in ranks.items()
        if any(_far(one) for one in own_ranks)
    }
    result["alarms_on_healthy"] = {
        name: [_told(own) for own in found[name] if alarms(own)]
        for name in healthy
        if any(alarms(own) for own in found[name])
    }
    result["confusion"] = confusion(scenarios, found)
    return result


def _far(number: int | None) -> bool:
    return number is None or number > 2


def _told(found: Mapping[str, Any]) -> list[str]:
    return [one["cause"] for one in alarms(found)]


def label(scenario: Scenario) -> str:
    """What is planted, in one string."""
    return " or ".join(cause for cause in Cause if cause in scenario.causes) or HEALTHY


def confusion(
    scenarios: Mapping[str, Scenario], found: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, dict[str, float]]:
    """For each planted cause, the share of diagnoses whose first two findings include each cause.

    A row sums to up to 2; `"nothing"` is the share of diagnoses without a finding.
    """
    told: dict[str, list[set[str]]] = {}
    for name, scenario in scenarios.items():
        for own in found[name]:
            told.setdefault(label(scenario), []).append(set(_told(own)[:2]) or {NOTHING})
    order = [*(cause.value for cause in Cause), HEALTHY]
    rows = sorted(told, key=lambda row: [order.index(one) for one in row.split(" or ")])
    return {
        row: {
            column: float(np.mean([column in one for one in told[row]]))
            for column in [*order[:-1], NOTHING]
            if any(column in one for one in told[row])
        }
        for row in rows
    }


def bootstrap(values: Sequence[Any], *, num_resamples: int = 10_000, seed: int = 0) -> Estimate:
    """Mean and 95% percentile bootstrap interval; NaN of no values."""
    if not len(values):
        return Estimate(np.nan, np.nan, np.nan)
    own = np.asarray(values, np.float64)
    drawn = np.random.default_rng(seed).integers(own.size, size=(num_resamples, own.size))
    low, high = np.percentile(own[drawn].mean(axis=1), [2.5, 97.5])
    return Estimate(float(own.mean()), float(low), float(high))


def upper_bound(num_true: int, number: int) -> float:
    """Exact 95% bound from above on a share, of independent draws; 1 of none.

    A bootstrap of draws that are all alike has no width, however few they are.

    Example:
        >>> round(upper_bound(0, 22), 3)
        0.127
    """
    if num_true == number:
        return 1.0
    return float(stats.beta.ppf(0.95, num_true + 1, number - num_true))
