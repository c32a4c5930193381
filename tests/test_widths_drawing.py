"""What a controller did, as a picture."""

import numpy as np
import pytest

from pfn_optax.drawing import draw_widths
from pfn_optax.growth import Decision, GrowthRecord


def record_of(initial, *calls):
    """A record of (cut, grown, shrunk), every hundred steps."""
    record = GrowthRecord(initial)
    for number, (cut, grown, shrunk) in enumerate(calls, start=1):
        decision = Decision(100 * number, 2 * number, cut, grown, shrunk, 99, ("why",))
        record = record.with_decision(decision, 99)
    return record


RECORD = record_of(
    {"first": 32, "waist": 2, "last": 32},
    (("waist",), {}, {}),
    (("waist",), {"waist": 6}, {"last": 8}),
    (("waist",), {"waist": 8}, {}),
    ((), {}, {}),
)


def test_rows_show_widths_changes_and_the_cut():
    figure = draw_widths(RECORD)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "waist", "last"]
    texts = {(text.get_text(), text.xy[0]) for text in axes.texts}
    assert texts == {("32", 0), ("2", 0), ("8", 200), ("16", 300), ("24", 200)}
    marks = {
        (line.get_marker(), float(line.get_xdata()[0]))
        for line in axes.lines
        if line.get_marker() in "^v"
    }
    assert marks == {("^", 200.0), ("^", 300.0), ("v", 200.0)}
    heights = {tuple(np.round(line.get_ydata() % 1 / 0.8 * 32)) for line in axes.lines[:1]}
    assert heights == {(32, 32, 32, 32)}
    red = [patch for patch in axes.collections if patch.get_alpha() == 0.16]
    spans = [tuple(sorted(set(patch.get_paths()[0].vertices[:, 0]))) for patch in red]
    assert spans == [(0, 100), (100, 200), (200, 300)]
    assert draw_widths(RECORD, axes=axes) is figure


def test_of_many_groups_those_that_were_met_are_drawn():
    names = [f"layer{index}" for index in range(40)]
    record = record_of(dict.fromkeys(names, 8), (("layer3",), {"layer5": 8}, {}))
    (axes,) = draw_widths(record).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["layer3", "layer5"]
    (axes,) = draw_widths(record_of(dict.fromkeys(names, 8), ((), {}, {}))).axes
    assert len(axes.get_yticklabels()) == 24


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="there is no decision yet"):
        draw_widths(GrowthRecord({"a": 2}))
