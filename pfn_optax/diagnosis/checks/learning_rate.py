"""Steps that are too large or too small, found by making them."""

import math
from collections.abc import Iterator

import numpy as np

from pfn_optax.diagnosis.case import Case, Skip
from pfn_optax.diagnosis.finding import Cause, Evidence, Finding, Severity
from pfn_optax.diagnosis.sharpness import Sharpness, measure_sharpness
from pfn_optax.diagnosis.training import (
    FAIR_PROGRESS,
    Training,
    Trajectory,
    measure_training,
)

_SMALLER = tuple(0.25**power for power in (1, 2, 3, 5, 7, 9, 11))


def check_learning_rate_too_large(case: Case) -> Iterator[Finding]:
    """Where the steps raise the loss of their own batch, tries smaller ones."""
    yield from case.once(_too_large)


def _too_large(case: Case) -> tuple[Finding, ...]:
    return tuple(_find_too_large(case))


def _find_too_large(case: Case) -> Iterator[Finding]:
    training = case.once(measure_training)
    run, limits = training.steps, case.thresholds
    if not run.steps:
        return
    losses = np.asarray(run.losses)
    rises = np.diff(losses) > limits.loss_rise * np.abs(losses[:-1])
    if run.is_finite and not rises.any():
        return
    start = losses[0]
    better = _largest_that_lowers(training)
    if better is None:  # it rises however small the steps are: not their size
        return
    gained = (start - run.last) / (start - better.last)
    if run.is_finite and gained > limits.small_gain:
        return
    factor = 1 / better.scale
    yield Finding(
        Cause.LEARNING_RATE_TOO_LARGE,
        Severity.CRITICAL if run.last >= start else Severity.WARNING,
        f"{len(run.steps)} steps on one batch take its loss from {start:.3g} to "
        f"{_shown(run.last)}; with a learning rate {factor:.2g} times smaller, to "
        f"{better.last:.3g}.",
        _lower(training, better, case),
        (
            Evidence("loss after the steps", run.losses[-1], start),
            Evidence("loss after smaller steps", better.last, start),
            *_edge_evidence(case),
        ),
        excess=factor,
    )


def check_learning_rate_too_small(case: Case) -> Iterator[Finding]:
    """Where steps change next to nothing, tries larger ones."""
    training = case.once(measure_training)
    run, limits = training.steps, case.thresholds
    progress = training.progress
    if not run.steps or not run.losses[0] or not 0 < progress < limits.slow_progress:
        return
    if progress * training.later_growth >= limits.slow_progress:
        return
    better = _larger_that_lowers(training, progress)
    if better is None:  # a plateau or a minimum: not their size
        return
    rate, factor = training.learning_rate, better.scale
    to = f"to {rate * factor:.1g} (it is {rate:.1g})" if rate else f"{factor:.0g} times"
    yield Finding(
        Cause.LEARNING_RATE_TOO_SMALL,
        Severity.CRITICAL if progress < limits.no_progress else Severity.WARNING,
        f"A step takes {progress:.1g} of the loss off: it would need {1 / progress:.0g} of them to "
        f"make a difference. With a learning rate {factor:.0g} times larger {len(better.steps)} "
        f"steps take it from {run.losses[0]:.3g} to {better.last:.3g}.",
        f"Raise the learning rate {to}.",
        (
            Evidence("share of the loss that a step takes off", progress, limits.slow_progress),
            Evidence("loss after larger steps", better.last, run.losses[0]),
        ),
        excess=limits.slow_progress / progress,
    )


def check_edge_of_stability(case: Case) -> Iterator[Finding]:
    """Measures the sharpness; beyond the edge it is a note, since training often lives there."""
    found = case.once(measure_sharpness)
    if found.sharpness is not None:
        case.measures["sharpness"] = found.sharpness
    if found.edge is None:
        return
    case.measures["edge_of_stability"] = found.edge
    if found.edge <= case.thresholds.edge_of_stability or _is_told(case):
        return
    remedy = (
        f"Below a learning rate of {found.largest_rate:.2g} they would not."
        if found.largest_rate
        else f"A learning rate {found.edge:.2g} times smaller would be stable."
    )
    yield Finding(
        Cause.LEARNING_RATE_TOO_LARGE,
        Severity.NOTE,
        f"Steps along the sharpest direction overshoot: the largest eigenvalue of the Hessian, as "
        f"the optimizer sees it, is {found.edge:.2g} times what is stable. Many networks train "
        "well there, the loss falling in zigzags.",
        f"{remedy} A warm-up gives the sharpness time to fall.",
        _edge(case, found),
        excess=found.edge,
    )


def _is_told(case: Case) -> bool:
    """Whether the steps themselves have been found too large."""
    try:
        return bool(case.once(_too_large))
    except Skip:
        return False


def _largest_that_lowers(training: Training) -> Trajectory | None:
    """The least scaled run whose loss ends below its start; None if none does, or time is up."""
    for scale in _SMALLER:
        try:
            run = training.scaled(scale)
        except Skip:
            return None
        start = run.losses[0]
        allowed = training.case.thresholds.loss_rise * abs(start)
        if run.last < start and run.peak <= start + allowed:
            return run
    return None


def _larger_that_lowers(training: Training, progress: float) -> Trajectory | None:
    """A run with steps of a fair size, or of a tenth or hundredth of it."""
    fair = 10.0 ** round(math.log10(FAIR_PROGRESS / progress))
    for scale in (fair, fair / 10, fair / 100):
        run = training.scaled(scale)
        gain = (run.losses[0] - run.last) / abs(run.losses[0])
        if gain > training.case.thresholds.larger_gain:
            return run
    return None


def _lower(training: Training, better: Trajectory, case: Case) -> str:
    rate = training.learning_rate
    if rate is None:
        advice = f"Lower the learning rate by a factor of {1 / better.scale:.2g}"
    else:
        advice = f"Lower the learning rate to {rate * better.scale:.2g} (it is {rate:.2g})"
    advice += f", the largest tried with which {len(better.steps)} steps lower the loss"
    first = training.steps.steps[0]
    gradient = float(np.linalg.norm(first.gradient))
    is_proportional = first.descent.sum() > 0.999 * gradient * np.linalg.norm(first.update)
    if is_proportional:
        clip = gradient * better.scale
        return f"{advice}; or bound the steps: optax.clip_by_global_norm({clip:.2g}) before it."
    return f"{advice}; a warm-up (optax.warmup_cosine_decay_schedule) helps the first steps."


def _shown(loss: float) -> str:
    return f"{loss:.3g}" if math.isfinite(loss) else "infinity or NaN"


def _edge_evidence(case: Case) -> tuple[Evidence, ...]:
    try:
        return _edge(case, case.once(measure_sharpness))
    except Skip:
        return ()


def _edge(case: Case, found: Sharpness) -> tuple[Evidence, ...]:
    if found.edge is None:
        return ()
    limit = case.thresholds.edge_of_stability
    edge = Evidence("sharpness over what the optimizer can stand", found.edge, limit)
    return (edge,) if found.sharpness is None else (edge, Evidence("sharpness", found.sharpness))
