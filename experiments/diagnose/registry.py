"""All scenarios by name: those that thresholds were chosen by, and those held out."""

from experiments.diagnose import tuning, tuning_healthy
from experiments.diagnose.scenario import Scenario


def _by_name(scenarios: tuple[Scenario, ...]) -> dict[str, Scenario]:
    found = {scenario.name: scenario for scenario in scenarios}
    assert len(found) == len(scenarios), "two scenarios have the same name"
    return found


TUNING = _by_name(tuning.SCENARIOS + tuning_healthy.SCENARIOS)
