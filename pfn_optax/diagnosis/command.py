"""`python -m pfn_optax diagnose module:factory`."""

import dataclasses
import io
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pfn_optax.diagnosis.diagnose import diagnose
from pfn_optax.diagnosis.diagnosis import Diagnosis
from pfn_optax.diagnosis.factory import FactoryError, setup_from
from pfn_optax.diagnosis.finding import Severity

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Diagnose:
    """Say what is wrong with a network that does not train, where, why, and what to do.

    MODULE:FACTORY names a function without arguments in a module that can be imported from the
    current folder. It returns (loss, params, batch) or (loss, params, batch, optimizer), a mapping
    with these and the other fields of pfn_optax.diagnosis.TrainingSetup, or one of those.

    Exit codes: 0 if nothing is as severe as --fail-on, 1 if something is, 2 if the request cannot
    be met.
    """

    target: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODULE:FACTORY")]
    """What to diagnose, as in train:make_setup."""
    html: Path | None = None
    """Write a page with plots to this file."""
    json: Path | None = None
    """Write JSON to this file; - prints it in place of the text."""
    max_seconds: float = 120.0
    """Checks that would take longer than this in all are skipped."""
    max_bytes: str | None = None
    """Memory that a check may take: a number, with K, M or G if you like. Default: a share of what
    the machine has."""
    fail_on: Literal["note", "warning", "critical", "never"] = "warning"
    """The least severity that makes the exit code 1."""
    quiet: bool = False
    """Show no progress."""

    def run(self) -> int:
        """Diagnoses, shows and writes; returns the exit code."""
        max_bytes = None if self.max_bytes is None else num_bytes(self.max_bytes)
        for path in (self.html, self.json):
            if path is not None and not path.parent.is_dir():
                raise FactoryError(f"there is no folder {path.parent} to write {path.name} to")
        setup = setup_from(self.target)
        arguments = {f.name: getattr(setup, f.name) for f in dataclasses.fields(setup)}
        try:
            diagnosis = diagnose(
                **arguments,
                max_seconds=self.max_seconds,
                max_bytes=max_bytes,
                progress=not self.quiet and sys.stderr.isatty(),
            )
        except Exception as error:
            message = f"{self.target} cannot be diagnosed: {type(error).__name__}: {error}"
            raise FactoryError(message) from (None if _is_ours(error) else error)
        self._write(diagnosis)
        return exit_code(diagnosis, self.fail_on)

    def _write(self, diagnosis: Diagnosis) -> None:
        if self.html is not None:
            diagnosis.html(self.html)
        if self.json == Path("-"):
            print(diagnosis.to_json())
            return
        if self.json is not None:
            self.json.write_text(diagnosis.to_json() + "\n", "utf-8")
        show(diagnosis)


def exit_code(diagnosis: Diagnosis, fail_on: str) -> int:
    """1 if a finding is at least that severe."""
    if fail_on == "never":
        return 0
    least = Severity[fail_on.upper()]
    return int(any(finding.severity >= least for finding in diagnosis.findings))


def _is_ours(error: Exception) -> bool:
    """Whether the message says it all: it is about the arguments, not from within the loss."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").startswith("pfn_optax.")


def num_bytes(text: str) -> int:
    """`"2G"` as a number of bytes.

    Raises:
        FactoryError: if it is none.

    Example:
        >>> from pfn_optax.diagnosis.command import num_bytes
        >>> num_bytes("1.5K")
        1536
    """
    upper = text.upper().removesuffix("B").removesuffix("I")
    unit = upper[-1:] if upper[-1:] in _UNITS else ""
    try:
        count = int(float(upper.removesuffix(unit)) * _UNITS[unit])
    except (ValueError, OverflowError):
        count = 0
    if count <= 0:
        raise FactoryError(f"--max-bytes must be a size such as 500M or 2G, got {text!r}")
    return count


def show(diagnosis: Diagnosis) -> None:
    """Prints in colours to a terminal, and as plain text to a file or a pipe."""
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        print(diagnosis)
        return
    console = Console()
    if console.is_terminal:
        console.print(diagnosis)
    else:
        print(diagnosis)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: without the program's name; None for those of the process.

    Returns:
        The exit code.
    """
    for stream in (sys.stdout, sys.stderr):  # names may hold letters that the terminal has not
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    command = tyro.extras.subcommand_cli_from_dict(
        {"diagnose": Diagnose}, prog="python -m pfn_optax", args=arguments
    )
    try:
        return command.run()
    except FactoryError as error:
        if error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
