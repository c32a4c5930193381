"""The result of `diagnose`: findings, the layers they are about, and what was not looked at."""

from dataclasses import dataclass, field

from pfn_optax.diagnosis.finding import Finding, Severity


@dataclass(frozen=True)
class LayerProfile:
    """What was measured of one layer; None where it was not.

    Attributes:
        name: path of the layer's parameters.
        num_params: how many numbers they are.
        width: units that it puts out.
        parameter_norm: L2 norm of its parameters.
        gradient_norm: L2 norm of the gradient of the loss with respect to them.
        update_ratio: norm of the first update over `parameter_norm`.
        mean_square: of its preactivations, the q of mean field.
        gain: mean square of its preactivations over that of what it is applied to.
        activation_rank: of its activations, 1 to width.
        mean_cosine: between the activations of two examples.
        dead_units: share of units that are zero for every example.
        saturated_share: share of activations at an end of their range.
        backward_norm: L2 norm of the gradient with respect to its preactivations.
        capacity: in the flow network.
        is_in_cut: whether the minimum cut goes through it.
    """

    name: str
    num_params: int
    width: int | None = None
    parameter_norm: float | None = None
    gradient_norm: float | None = None
    update_ratio: float | None = None
    mean_square: float | None = None
    gain: float | None = None
    activation_rank: float | None = None
    mean_cosine: float | None = None
    dead_units: float | None = None
    saturated_share: float | None = None
    backward_norm: float | None = None
    capacity: float | None = None
    is_in_cut: bool | None = None


@dataclass(frozen=True)
class CheckRecord:
    """One check, run or not.

    Attributes:
        name: of the check.
        seconds: what it took, compilation included.
        skipped: why it was not run, or not in full; "" if it was.
    """

    name: str
    seconds: float
    skipped: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` returns; printing it shows it, in a notebook as a page.

    Attributes:
        findings: what is wrong, what to mend first first.
        layers: the layers in the order of execution, with what was measured of each.
        measures: numbers about the whole network, by name: `"loss"`, `"gradient_norm"`,
            `"sharpness"` and the like.
        checks: what was looked at, and what was skipped and why.
        num_params: how many numbers the parameters are.
        seconds: what it took in all.
    """

    findings: tuple[Finding, ...]
    layers: tuple[LayerProfile, ...]
    measures: dict[str, float] = field(default_factory=dict)
    checks: tuple[CheckRecord, ...] = ()
    num_params: int = 0
    seconds: float = 0.0

    @property
    def is_healthy(self) -> bool:
        """Whether there is nothing worse than a note."""
        return all(finding.severity < Severity.WARNING for finding in self.findings)

    @property
    def skipped(self) -> tuple[CheckRecord, ...]:
        """Checks that were not run, or not in full."""
        return tuple(check for check in self.checks if check.skipped)
