import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pfn_optax.diagnosis import Cause, Diagnosis, Evidence, Finding, LayerProfile, Severity
from pfn_optax.diagnosis.show.layers import COLUMNS, concerns, findings_of, rows_of
from pfn_optax.diagnosis.show.words import (
    beyond,
    number,
    printable,
    shortened,
    verdict,
    width,
    wrapped,
)
from tests.diagnosis.examples import ALL, HOSTILE, layer

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def colourful(diagnosis, columns=100, **options):
    console = Console(file=io.StringIO(), width=columns, force_terminal=True, **options)
    console.print(diagnosis)
    return console.file.getvalue()


def plain(diagnosis, columns=100):
    return colourful(diagnosis, columns, color_system=None)


@pytest.mark.parametrize("name", ALL)
def test_plain_text_keeps_to_its_columns_and_lines(name):
    text = str(ALL[name])
    assert all(width(line) <= 100 for line in text.splitlines())
    assert all(c.isprintable() for c in text.replace("\n", ""))
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_plain_text_says_everything():
    text = str(ALL["sick"])
    heads = [line for line in text.splitlines() if line[:2] in ("1.", "2.", "3.", "4.")]
    assert heads == [
        "1. CRITICAL: init too small",
        "2. WARNING: dead units",
        "3. NOTE: bottleneck",
        "4. CRITICAL: vanishing gradient",
    ]
    assert text.startswith(
        "2 critical findings, 1 warning and 1 note. 12 layers, 49,920 parameters"
    )
    assert "measured mean square kept per layer          0.5  limit 0.8\n" in text
    assert "where    blocks/3/dense" in text
    assert "follows  from init too small (1): mend that first" in text
    assert "skipped  sharpness: would take some 40 s" in text
    assert "whole    loss 2.3   gradient_norm 0.00125   sharpness 12,346" in text
    [line] = [line for line in text.splitlines() if line.startswith("blocks/3/dense")]
    assert line.endswith("2, 4")
    assert "12.3" not in text  # what takes time differs from run to run


def test_verdicts():
    assert verdict(ALL["healthy"]) == "Healthy: nothing was found wrong"
    assert verdict(ALL["broken"]) == "1 critical finding"
    note = Diagnosis((Finding(Cause.BOTTLENECK, Severity.NOTE, "", ""),), ())
    assert verdict(note) == "Healthy: nothing was found wrong; 1 note"
    unsure = Diagnosis((), (), checks=ALL["sick"].checks)
    assert verdict(unsure) == "Nothing was found wrong, but not all was looked at"


def test_what_does_not_apply_is_told_and_is_not_missed():
    healthy = ALL["healthy"]
    assert (len(healthy.skipped), len(healthy.inapplicable)) == (0, 1)
    text = str(healthy)
    assert text.startswith("Healthy: nothing was found wrong. 1 layer, 10 parameters, 2 checks.\n")
    assert "skipped  chaos: does not apply: the data is of integers" in text
    assert "skipped chaos: does not apply: the data is of integers" in plain(healthy)
    assert ALL["sick"].inapplicable == ()
    assert "does not apply" not in str(ALL["sick"])


@pytest.mark.parametrize("columns", [40, 80, 140])
@pytest.mark.parametrize("name", ALL)
def test_the_terminal_shows_the_same_at_any_width(name, columns):
    text = plain(ALL[name], columns)
    assert all(width(line) <= columns for line in text.splitlines())
    assert "\x1b[31m" not in text  # of the hostile names
    assert verdict(ALL[name]).split()[0] in text


def test_the_terminal_reads_no_markup_in_names():
    text = plain(ALL["hostile"], 400)
    assert "[red]markup[/red]" in text
    assert "[link=file:///]x[/link]" in text
    assert "\\x1b[31mred" in text


def test_the_terminal_has_colours_and_bars():
    text = colourful(ALL["sick"], color_system="standard")
    assert "\x1b[31m" in text
    rows = [line for line in plain(ALL["sick"]).splitlines() if line.startswith(" blocks/")]
    lengths = [line.count("█") for line in rows]
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[-1]) == (0, 8)
    assert "as critical_init does" in plain(ALL["sick"], 140)  # without its backticks


def test_hundreds_of_layers_are_folded_and_those_found_are_not():
    diagnosis = ALL["deep"]
    rows = rows_of(diagnosis)
    assert len(rows) <= 40
    assert [len(row.layers) for row in rows] == [1, 2, 1, 294, 2]
    assert rows[3].name == "294 layers: blocks/4/dense ... 297/dense"
    assert sum(len(row.layers) for row in rows) == len(diagnosis.layers)
    assert sum(row.value("num_params") for row in rows) == 300 * 4160
    assert [row.findings for row in rows] == [(3, 4), (4,), (2, 4), (4,), ()]
    assert len(rows_of(diagnosis, fold=False)) == 300


def test_many_separate_findings_fold_as_well():
    names = [f"blocks/{index}/dense" for index in range(200)]
    findings = (Finding(Cause.DEAD_UNITS, Severity.NOTE, "", "", layers=tuple(names[::2])),)
    diagnosis = Diagnosis(findings, tuple(layer(index, 200) for index in range(200)))
    [row] = rows_of(diagnosis)
    assert (len(row.layers), row.findings) == (200, (1,))


def test_a_finding_concerns_layers_modules_and_leaves():
    assert concerns("blocks/1", "blocks/1/dense")
    assert concerns("blocks/1/dense/kernel", "blocks/1/dense")
    assert not concerns("blocks/1", "blocks/11/dense")
    finding = Finding(Cause.DEAD_UNITS, Severity.NOTE, "", "", layers=("a",))
    layers = (LayerProfile("a/b", 1), LayerProfile("b", 1))
    assert findings_of(Diagnosis((finding,), layers)) == [(1,), ()]


def test_every_measurement_of_a_layer_has_a_column():
    fields = LayerProfile.__dataclass_fields__
    assert [column.field for column in COLUMNS] == [name for name in fields if name != "name"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (0.0, "0"),
        (float("nan"), "NaN"),
        (float("-inf"), "-inf"),
        (12345.6, "12,346"),
        (999.96, "1e3"),
        (1.5e9, "1.5e9"),
        (-2.5e-7, "-2.5e-7"),
        (32, "32"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text
    assert number(value, "s") == (f"{text} s" if text else "")


@pytest.mark.parametrize(
    ("value", "limit", "text"),
    [(6, 2, "×3"), (2, 6, "÷3"), (2, 2, ""), (2, None, ""), (0, 1, ""), (1, 0, ""), (-2, 1, "")],
)
def test_how_far_beyond_the_limit(value, limit, text):
    assert beyond(Evidence("", value, limit)) == text


@given(TEXTS, st.integers(4, 30))
def test_words_keep_to_their_width(text, columns):
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)
    assert width(shortened(text, columns)) <= max(columns, 0)
    lines = list(wrapped(text, columns))
    assert all(width(line) <= columns for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_wide_letters_count_twice():
    assert (width("é"), width("层"), width("e\u0301")) == (1, 2, 1)
    assert all(name == "" or printable(name) for name in HOSTILE)


def test_names_of_measures_stay_with_their_numbers():
    measures = {f"measure_of_some_{index}": index / 7 for index in range(12)}
    lines = str(Diagnosis((), (), measures)).splitlines()[2:]
    assert len(lines) > 2
    pairs = " ".join(lines).removeprefix("whole").split()
    assert pairs[::2] == list(measures)
    assert all(float(line.split()[-1]) >= 0 for line in lines)
