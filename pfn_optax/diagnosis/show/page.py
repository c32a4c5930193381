"""A diagnosis as a page: HTML and SVG without a script, a file or a font from elsewhere."""

import html
from collections.abc import Iterable, Sequence
from importlib import resources
from string import Template

from pfn_optax.diagnosis.diagnosis import CheckRecord, Diagnosis
from pfn_optax.diagnosis.finding import Evidence, Finding
from pfn_optax.diagnosis.show.layers import Row, measured, rows_of
from pfn_optax.diagnosis.show.plots import figures
from pfn_optax.diagnosis.show.signs import gauge, severity_icon
from pfn_optax.diagnosis.show.words import (
    LONGEST,
    beyond,
    number,
    origins,
    printable,
    ratio,
    reason,
    severity,
    shortened,
    size,
    title,
    verdict,
    where,
)

_MOST_LINES = 1000  # of the full table; more make a browser slow


def page(diagnosis: Diagnosis) -> str:
    """Returns the whole page."""
    return Template(_file("page.html")).substitute(
        title=_text(verdict(diagnosis)), style=_file("page.css"), body=_body(diagnosis, "main")
    )


def fragment(diagnosis: Diagnosis) -> str:
    """Returns what can stand within a page, a notebook's: its style reaches nothing else."""
    return f"<style>{_file('page.css')}</style>{_body(diagnosis, 'div')}"


def _file(name: str) -> str:
    return resources.files("pfn_optax.diagnosis.show").joinpath(name).read_text("utf-8")


def _text(text: str) -> str:
    """Text from anywhere, as it stands."""
    return html.escape(printable(text))


def _name(name: str) -> str:
    """A layer's name, of bounded length; whole where it is pointed at."""
    short = shortened(printable(name), LONGEST)
    whole = f' title="{_text(name)}"' if short != printable(name) else ""
    return f"<span{whole}>{html.escape(short)}</span>"


def _body(diagnosis: Diagnosis, tag: str) -> str:
    parts = [_head(diagnosis), _findings(diagnosis.findings), _plots(diagnosis)]
    parts += [_layers(diagnosis), _measures(diagnosis.measures), _checks(diagnosis)]
    return f'<{tag} class="pfn-diagnosis">{"".join(parts)}</{tag}>'


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{heading}</h2>{content}</section>" if content else ""


def _head(diagnosis: Diagnosis) -> str:
    worst = max((finding.severity for finding in diagnosis.findings), default=None)
    level = "healthy" if diagnosis.is_healthy or worst is None else worst.name.lower()
    facts = f"{size(diagnosis)}; {diagnosis.seconds:.1f} s"
    return (
        f'<header class="{level}"><p class="name">Diagnosis</p>'
        f"<h1>{_text(verdict(diagnosis))}</h1><p>{_text(facts)}</p></header>"
    )


def _findings(findings: Sequence[Finding]) -> str:
    cards = "".join(
        _card(index, finding, findings) for index, finding in enumerate(findings, start=1)
    )
    return _section("Findings", f'<ol class="findings">{cards}</ol>' if cards else "")


def _card(index: int, finding: Finding, findings: Sequence[Finding]) -> str:
    level = severity(finding)
    parts = [
        f'<h3><span class="number">{index}</span> {_text(title(finding.cause)).capitalize()} '
        f'<span class="level">{severity_icon(finding.severity)}{level}</span></h3>'
    ]
    if finding.layers:
        parts.append(_where(finding))
    parts.append(f"<p>{_text(finding.summary)}</p>")
    if origin := origins(finding, findings):
        parts.append(f'<p class="origin">Follows from {_text(origin)}: mend that first.</p>')
    parts.append(_evidence(finding.evidence))
    parts.append(f'<p class="remedy"><strong>Try:</strong> {_with_code(finding.remedy)}</p>')
    kind = level if finding.follows_from is None else f"{level} explained"
    return f'<li class="{kind}">{"".join(parts)}</li>'


def _where(finding: Finding, most: int = 6) -> str:
    names = [f"<code>{_name(name)}</code>" for name in finding.layers]
    if len(names) <= most:
        return f'<p class="where">in {", ".join(names)}</p>'
    return (
        f'<details class="where"><summary>in {_text(where(finding, most))}</summary>'
        f"{', '.join(names)}</details>"
    )


def _evidence(evidence: Sequence[Evidence]) -> str:
    def gauged(one: Evidence) -> str:
        if one.limit is None or ratio(one) in (None, 1.0):
            return ""
        return gauge(one.value, one.limit)

    rows = [
        (
            f'<th scope="row">{_text(one.name)}</th>',
            f"<td>{_text(number(one.value, one.unit))}</td>",
            f"<td>{'' if one.limit is None else _text(number(one.limit, one.unit))}</td>",
            f'<td class="way">{gauged(one)} {beyond(one)}</td>',
        )
        for one in evidence
    ]
    heads = ["measured", "value"]
    if any(one.limit is not None for one in evidence):
        heads.append("limit")
    if any(map(beyond, evidence)):
        heads.append("beyond it")
    lines = [f"<tr>{''.join(row[: len(heads)])}</tr>" for row in rows]
    return _table(heads, lines, "evidence") if lines else ""


def _with_code(remedy: str) -> str:
    """What stands between backticks as code."""
    parts = [_text(part) for part in remedy.split("`")]
    if len(parts) % 2 == 0:
        return _text(remedy)
    return "".join(f"<code>{p}</code>" if k % 2 else p for k, p in enumerate(parts))


def _plots(diagnosis: Diagnosis) -> str:
    plots = "".join(figures(diagnosis))
    if not plots:
        return ""
    legend = (
        "<p>From the data, left, to the loss, right. Shaded: layers that a finding names, with its "
        "number. × is a value that is not finite; ○ at the bottom, one that is zero.</p>"
    )
    return _section("Over depth", f'{legend}<div class="plots">{plots}</div>')


def _layers(diagnosis: Diagnosis) -> str:
    if not diagnosis.layers:
        return ""
    folded, full = rows_of(diagnosis), rows_of(diagnosis, fold=False)
    content = _layer_table(diagnosis, folded)
    if len(folded) < len(full):
        content = (
            "<p>Several layers in a line: their median, and their parameters in all.</p>"
            f"{content}<details><summary>a line for each of "
            f"{'the' if len(full) <= _MOST_LINES else f'the first {_MOST_LINES} of'} "
            f"{len(full)} layers</summary>{_layer_table(diagnosis, full[:_MOST_LINES])}</details>"
        )
    return _section("Layers", content)


def _layer_table(diagnosis: Diagnosis, rows: Sequence[Row]) -> str:
    columns = measured(diagnosis)

    def line(row: Row) -> str:
        level = ""
        if row.findings:
            level = severity(
                max((diagnosis.findings[n - 1] for n in row.findings), key=lambda one: one.severity)
            )
        cells = "".join(f"<td>{row.cell(column)}</td>" for column in columns)
        numbers = ", ".join(map(str, row.findings))
        return (
            f'<tr class="{level}"><th scope="row">{_name(row.name)}</th>'
            f'<td class="level">{numbers}</td>{cells}</tr>'
        )

    heads = [f'<abbr title="{column.about}">{column.head}</abbr>' for column in columns]
    return _table(("layer", "finding", *heads), map(line, rows), "layers")


def _measures(measures: dict[str, float]) -> str:
    items = "".join(
        f"<div><dt>{_name(name.replace('_', ' '))}</dt><dd>{number(value)}</dd></div>"
        for name, value in measures.items()
    )
    return _section("The network as a whole", f"<dl>{items}</dl>" if items else "")


def _checks(diagnosis: Diagnosis) -> str:
    def line(check: CheckRecord, outcome: str, kind: str = "") -> str:
        return (
            f'<tr{kind}><th scope="row">{_name(check.name)}</th><td>{check.seconds:.1f}</td>'
            f'<td class="why">{html.escape(outcome)}</td></tr>'
        )

    def table(lines: Sequence[str]) -> str:
        return _table(("check", "seconds", "outcome"), lines, "checks") if lines else ""

    not_done = [
        *(line(one, f"not in full: {reason(one)}", " class=skipped") for one in diagnosis.skipped),
        *(line(one, reason(one)) for one in diagnosis.inapplicable),
    ]
    done = [line(one, "done") for one in diagnosis.checks if one.applies and not one.skipped]
    rest = f"<details><summary>{len(done)} checks done</summary>{table(done)}</details>"
    return _section("What was looked at", table(not_done) + (rest if done else ""))


def _table(heads: Iterable[str], rows: Iterable[str], name: str) -> str:
    """A table that scrolls by itself where it is too wide, by keyboard too."""
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    # Small tables are no landmarks and no stops on the way through the page.
    region = "" if name == "evidence" else f' tabindex="0" role="region" aria-label="{name}"'
    return (
        f'<div class="scrolls"{region}><table class="{name}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
