"""Parameters that have a gradient, and that the optimizer leaves as they are."""

from collections.abc import Iterator

import numpy as np

from pfn_optax.diagnosis.case import Case
from pfn_optax.diagnosis.finding import Cause, Evidence, Finding, Severity
from pfn_optax.diagnosis.training import Training, measure_training
from pfn_optax.table import listed

_REMEDY = (
    "Give them an optimizer: look at masks (optax.masked) and labels (optax.multi_transform, "
    "optax.partition), which go by name, for a name that has changed. If they are frozen on "
    "purpose, nothing is wrong."
)


def check_frozen(case: Case) -> Iterator[Finding]:
    """Compares what has a gradient with what is updated, in every one of some steps."""
    training = case.once(measure_training)
    steps = training.steps.steps
    if not steps:
        yield from _all(case, training)
        return
    has_gradient = np.any([step.gradient > 0 for step in steps], axis=0)
    is_updated = np.any([step.update > 0 for step in steps], axis=0)
    suspects = has_gradient & ~is_updated
    if not suspects.any():
        return
    waits = suspects & (training.later_updates > 0).any(axis=0)
    for chosen, is_lasting in ((suspects & ~waits, True), (waits, False)):
        if chosen.any():
            yield _some(case, training, chosen, is_lasting)


def _all(case: Case, training: Training) -> Iterator[Finding]:
    gradient = case.measures["gradient_norm"]
    if not gradient or training.later_updates.any():  # later, by a schedule
        return
    yield Finding(
        Cause.FROZEN,
        Severity.CRITICAL,
        f"The optimizer changes no parameter: in {training.steps.num_calls} calls every update is "
        "exactly 0, though the gradient is not.",
        "Look for a learning rate (or the end of a schedule) of 0, optax.set_to_zero, or a mask or "
        "label that leaves everything out; optax.sgd(1e-2) would move it.",
        (Evidence("norm of the updates", 0.0), Evidence("gradient norm", gradient)),
    )


def _some(case: Case, training: Training, chosen: np.ndarray, is_lasting: bool) -> Finding:
    paths = [name for name, is_chosen in zip(training.names, chosen, strict=True) if is_chosen]
    layers = tuple(dict.fromkeys(map(case.layer_of, paths)))
    matrices = {"/".join(layer.path) for layer in case.layout.layers}
    gradients = training.steps.steps[-1].gradient
    share = float(np.linalg.norm(gradients[chosen]) / max(np.linalg.norm(gradients), 1e-30))
    evidence = (
        Evidence("parameters with a gradient and no update", len(paths), 0.0),
        Evidence("their share of the gradient's norm", share),
    )
    if not is_lasting:
        return Finding(
            Cause.FROZEN,
            Severity.NOTE,
            f"The optimizer changes {listed(layers, 4)} not now but later, by a schedule.",
            "Nothing, if the schedule is meant so.",
            evidence,
            layers,
        )
    return Finding(
        Cause.FROZEN,
        Severity.CRITICAL if matrices & set(paths) else Severity.WARNING,
        f"The optimizer never changes {listed(layers, 4)}: in {len(training.steps.steps)} steps "
        "their updates are exactly 0, though their gradient is not.",
        _REMEDY,
        evidence,
        layers,
        excess=float(len(paths)),
    )
