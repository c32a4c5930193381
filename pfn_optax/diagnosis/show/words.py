"""Names and numbers as words that fit into a line."""

import math
import unicodedata
from collections.abc import Iterator, Sequence

from pfn_optax.diagnosis.diagnosis import CheckRecord, Diagnosis
from pfn_optax.diagnosis.finding import Cause, Evidence, Finding, Severity
from pfn_optax.table import listed

LONGEST = 80  # columns of a name; a path of modules that is longer loses its middle


def printable(text: str) -> str:
    """Writes control characters, newlines and changes of direction as their escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def width(text: str) -> int:
    """Columns that a terminal shows it in: none for an accent, two for a CJK letter."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) != 0 for c in text)


def shortened(text: str, most: int) -> str:
    """Leaves out the middle of what is wider than `most` columns."""
    if width(text) <= most:
        return text
    head, tail = "", ""
    while True:  # a letter at a time: letters differ in width
        head += text[len(head)]
        if width(head + tail) > most - 1:
            return head[:-1] + "…" + tail
        tail = text[-1 - len(tail)] + tail
        if width(head + tail) > most - 1:
            return head + "…" + tail[1:]


def justified(text: str, columns: int, *, is_left: bool) -> str:
    """Pads to a width."""
    padding = " " * (columns - width(text))
    return text + padding if is_left else padding + text


def wrapped(text: str, columns: int) -> Iterator[str]:
    """Yields lines of at most that width; a longer word is broken."""
    line = ""
    for word in text.split(" "):
        if line and width(line) + 1 + width(word) <= columns:
            line += " " + word
            continue
        if line:
            yield line
        line = word
        while width(line) > columns:
            cut = next(n for n in range(1, len(line) + 1) if width(line[:n]) > columns) - 1
            yield line[:cut]
            line = line[cut:]
    yield line


def number(value: float | None, unit: str = "") -> str:
    """Three digits, with its unit; "" for what was not measured."""
    if value is None:
        return ""
    if not math.isfinite(value):
        text = {math.inf: "inf", -math.inf: "-inf"}.get(value, "NaN")
    elif 1000 <= abs(value) < 1e6:
        text = f"{value:,.0f}"
    else:
        mantissa, _, exponent = f"{value:.3g}".partition("e")
        text = f"{mantissa}e{int(exponent)}" if exponent else mantissa
    return f"{text} {printable(unit)}" if unit else text


def counted(count: int, noun: str) -> str:
    """`"1 layer"`, `"2 layers"`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def ratio(evidence: Evidence) -> float | None:
    """The value over the limit, where that says something."""
    value, limit = evidence.value, evidence.limit
    if limit is None or not (0 < limit < math.inf and 0 < value < math.inf):
        return None
    return value / limit


def beyond(evidence: Evidence) -> str:
    """By what factor the value is beyond the limit, `"×12"` or `"÷12"`."""
    found = ratio(evidence)
    if found is None:
        return ""
    if found == 1:
        return ""
    return f"×{number(found)}" if found > 1 else f"÷{number(1 / found)}"


def title(cause: Cause) -> str:
    """The cause in words."""
    return cause.value.replace("_", " ")


def where(finding: Finding, most: int = 6) -> str:
    """The layers concerned, the first few of many."""
    return listed([shortened(printable(name), LONGEST) for name in finding.layers], most)


def severity(finding: Finding) -> str:
    """Its severity in words."""
    return finding.severity.name.lower()


def origins(finding: Finding, findings: Sequence[Finding]) -> str:
    """Which finding explains this one, by its number where it has one."""
    if finding.follows_from is None:
        return ""
    for index, other in enumerate(findings):
        if other.cause is finding.follows_from and other is not finding:
            return f"{title(other.cause)} ({index + 1})"
    return title(finding.follows_from)


def reason(check: CheckRecord) -> str:
    """Why a check was not run, or not in full."""
    return ("" if check.applies else "does not apply: ") + printable(check.skipped)


def verdict(diagnosis: Diagnosis) -> str:
    """The diagnosis in one sentence."""
    counts = dict.fromkeys(sorted(Severity, reverse=True), 0)
    for finding in diagnosis.findings:
        counts[finding.severity] += 1
    nouns = {
        Severity.CRITICAL: "critical finding",
        Severity.WARNING: "warning",
        Severity.NOTE: "note",
    }
    parts = [counted(count, nouns[level]) for level, count in counts.items() if count]
    if diagnosis.is_healthy:
        # Nobody is healthy who was not looked at.
        head = (
            "Nothing was found wrong, but not all was looked at"
            if diagnosis.skipped
            else "Healthy: nothing was found wrong"
        )
        return head + "".join(f"; {part}" for part in parts)
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def size(diagnosis: Diagnosis) -> str:
    """What was looked at, in one line."""
    parts = [counted(len(diagnosis.layers), "layer"), counted(diagnosis.num_params, "parameter")]
    if diagnosis.checks:
        parts.append(counted(len(diagnosis.checks), "check"))
    if diagnosis.skipped:
        parts.append(f"{len(diagnosis.skipped)} of them not in full")
    return ", ".join(parts)
