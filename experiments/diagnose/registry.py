"""All scenarios by name: those that thresholds were chosen by, and those held out."""

from experiments.diagnose import held_out, held_out_healthy, tuning, tuning_healthy
from experiments.diagnose.scenario import Scenario


def _by_name(scenarios: tuple[Scenario, ...]) -> dict[str, Scenario]:
    found = {scenario.name: scenario for scenario in scenarios}
    assert len(found) == len(scenarios), "two scenarios have the same name"
    return found


TUNING = _by_name(tuning.SCENARIOS + tuning_healthy.SCENARIOS)
HELD_OUT = _by_name(held_out.SCENARIOS + held_out_healthy.SCENARIOS)
