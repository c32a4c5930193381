"""What a diagnosis says: findings, each with a cause, its evidence and a remedy."""

import enum
from dataclasses import dataclass
from typing import NamedTuple


class Cause(enum.StrEnum):
    """What can be wrong, from the plainest to what follows from others.

    The order is that in which findings of the same severity are listed: a value that is not finite
    makes every other measurement meaningless, a layer's scale explains a gradient that vanishes.
    """

    NONFINITE = "nonfinite"
    """A NaN or infinity in the data, the parameters, an activation, the loss or a gradient."""
    NO_GRADIENT = "no_gradient"
    """Parameters that the loss does not depend on: detached, unused, or behind units that are 0."""
    FROZEN = "frozen"
    """Parameters that have a gradient, and that the optimizer leaves as they are."""
    SYMMETRIC_UNITS = "symmetric_units"
    """Units of a layer that compute the same and get the same gradient, so they stay the same."""
    DEAD_UNITS = "dead_units"
    """Units that are zero for every example."""
    SATURATION = "saturation"
    """Units at the ends of the range of their activation, where its slope is almost zero."""
    INPUT_SCALE = "input_scale"
    """Data far from zero mean and unit variance."""
    INIT_TOO_SMALL = "init_too_small"
    """Weights that make the signal smaller from layer to layer, or one layer's that do."""
    INIT_TOO_LARGE = "init_too_large"
    """Weights that make the signal larger from layer to layer, or one layer's that do."""
    LOST_SIGNAL = "lost_signal"
    """A signal that does not get from one layer to the next, whatever the weights."""
    MISSING_RESIDUAL = "missing_residual"
    """A block without the way around that the blocks like it have."""
    BOTTLENECK = "bottleneck"
    """A layer that lets fewer directions of the gradient through than the layers around it."""
    RANK_COLLAPSE = "rank_collapse"
    """Activations that are almost the same for all examples, up to a factor."""
    VANISHING_GRADIENT = "vanishing_gradient"
    """A gradient that becomes smaller from layer to layer, or step to step, on its way back."""
    EXPLODING_GRADIENT = "exploding_gradient"
    """A gradient that becomes larger from layer to layer, or step to step, on its way back."""
    LEARNING_RATE_TOO_LARGE = "learning_rate_too_large"
    """Steps beyond the edge of stability: the loss rises on the very batch they are made for."""
    LEARNING_RATE_TOO_SMALL = "learning_rate_too_small"
    """Steps that change next to nothing."""
    LOSS_SCALE = "loss_scale"
    """A loss in units that make all gradients far too small, or far too large, to step by."""
    LOW_PRECISION = "low_precision"
    """Gradients that underflow, or updates lost to rounding, in the dtype they are kept in."""


class Severity(enum.IntEnum):
    """How much a finding matters."""

    NOTE = 1
    """Worth knowing; training goes on."""
    WARNING = 2
    """Slows training down, or costs accuracy."""
    CRITICAL = 3
    """Nothing is learnt, or not by the part named, until it is mended."""


class Evidence(NamedTuple):
    """One number that a finding rests on.

    Attributes:
        name: what was measured.
        value: the measurement.
        limit: the threshold that it passed; None if it has none.
        unit: of both; "" for a pure number.
    """

    name: str
    value: float
    limit: float | None = None
    unit: str = ""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        cause: what it is.
        severity: how much it matters.
        summary: one sentence for a reader who knows their model, not this library.
        remedy: what to try, concretely.
        evidence: the numbers it rests on, the decisive one first.
        layers: paths of the layers concerned, the most affected first; empty if it is all of them.
        excess: how far the decisive number is beyond its threshold, >= 1; orders findings of the
            same severity and cause.
        follows_from: the cause of another finding that explains this one; such are listed after
            those that nothing explains.
    """

    cause: Cause
    severity: Severity
    summary: str
    remedy: str
    evidence: tuple[Evidence, ...] = ()
    layers: tuple[str, ...] = ()
    excess: float = 1.0
    follows_from: Cause | None = None


def ranked(findings: list[Finding]) -> tuple[Finding, ...]:
    """Sorts findings: notes last, before them explained ones, then by severity, cause, excess."""
    order = list(Cause)

    def key(finding: Finding) -> tuple[bool, bool, int, int, float]:
        is_note, is_explained = finding.severity is Severity.NOTE, finding.follows_from is not None
        cause = order.index(finding.cause)
        return is_note, is_explained, -finding.severity, cause, -finding.excess

    return tuple(sorted(findings, key=key))
