"""The result of `diagnose`: findings, the layers they are about, and what was not looked at."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
        capacity: in the flow network: directions that it lets through, at most 48.
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
        applies: whether it asks anything of such a network and such data; where it does not,
            `skipped` says why.
    """

    name: str
    seconds: float
    skipped: str = ""
    applies: bool = True


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` returns; printing it shows it, in a notebook as a page.

    `print(diagnosis)` gives plain text of 100 columns, `rich.print(diagnosis)` panels and colours.

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
        """Checks that could not be run, or not in full: what they look for was not looked at."""
        return tuple(check for check in self.checks if check.skipped and check.applies)

    @property
    def inapplicable(self) -> tuple[CheckRecord, ...]:
        """Checks that do not apply to such a network or such data, so that nothing is missed."""
        return tuple(check for check in self.checks if not check.applies)

    def __str__(self) -> str:
        """Formats findings, layers and what was skipped as text of at most 100 columns."""
        from pfn_optax.diagnosis.show.text import as_text

        return as_text(self)

    def __rich__(self) -> Any:
        """What the library `rich` prints."""
        from pfn_optax.diagnosis.show.terminal import Report

        return Report(self)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from pfn_optax.diagnosis.show.page import fragment

        return fragment(self)

    def html(self, path: str | Path | None = None) -> str:
        """Returns a page with findings, plots over depth and the table of layers.

        It needs nothing but a browser, and runs no script.

        Args:
            path: where to write it as well, if anywhere.

        Example:
            >>> from pfn_optax.diagnosis import Diagnosis
            >>> Diagnosis(findings=(), layers=()).html().splitlines()[0]
            '<!doctype html>'
        """
        from pfn_optax.diagnosis.show.page import page

        text = page(self)
        if path is not None:
            Path(path).write_text(text, "utf-8")
        return text

    def to_json(self, *, indent: int | None = 2) -> str:
        """Returns it as JSON, as `pfn_optax/diagnosis/schema.json` describes it.

        A number that is not finite becomes the string "NaN", "Infinity" or "-Infinity"; null is
        what was not measured.

        Args:
            indent: of nested lines; None for one line.

        Example:
            >>> from pfn_optax.diagnosis import Diagnosis, LayerProfile
            >>> diagnosis = Diagnosis(findings=(), layers=(LayerProfile("layers/0", 12),))
            >>> Diagnosis.from_json(diagnosis.to_json()) == diagnosis
            True
        """
        from pfn_optax.diagnosis.serial import to_json

        return to_json(self, indent=indent)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Diagnosis":
        """Reads what `to_json` wrote.

        Raises:
            ValueError: if it is no diagnosis, or one of another version; names the place.
        """
        from pfn_optax.diagnosis.serial import from_json

        return from_json(text)
