import html
import json
import re

import numpy as np
import pytest

from pfn_optax import Edge, FlowGraph, cut_report
from pfn_optax.drawing import flow_html
from pfn_optax.drawing.picture import picture_of
from pfn_optax.report import snapshot
from tests.pages import Page
from tests.states import matrix, residual, state_of

HOSTILE = "</script><script>alert('&')</script>"


@pytest.fixture(scope="module")
def deep():
    params, graph = residual(4, 4)
    return state_of(graph, params, {"stage1/block2/conv1": 1.0}), params, graph


@pytest.fixture(scope="module")
def page(deep):
    state, params, graph = deep
    return flow_html(state, params, capacity="norm", graph=graph)


def picture_in(page):
    return json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page)[1])


def test_it_is_well_formed_and_holds_the_table(page, deep):
    state, params, graph = deep
    parsed = Page(page)
    assert parsed.text_of("h1") == [cut_report(state, params, graph=graph).summary]
    cells = [text for text in parsed.text_of("td") if text.startswith("stage1/block2/conv1")]
    assert len(cells) == 1 + 2  # wholly in the cut: a line in the folded table, two in the full one
    assert [tag for tag, _ in parsed.elements].count("svg") == 1


def test_it_asks_nothing_of_the_network(page):
    assert not re.search(r"https?:|//[a-z]|@import|url\(", page)
    assert not [
        (tag, attributes)
        for tag, attributes in Page(page).elements
        if {"src", "href", "action"} & set(attributes)
    ]


def test_its_picture_is_that_of_the_figure(page, deep):
    state, params, graph = deep
    picture = picture_of(snapshot(state, params, capacity="norm", graph=graph))
    found = picture_in(page)
    assert found["folded"] == sorted(picture.folded)
    assert found["modules"] == list(picture.modules)
    assert found["depths"] == picture.depths
    assert [band["name"] for band in found["bands"]] == [band.name for band in picture.bands]
    assert [band["label"] for band in found["bands"]] == [
        picture.label(index) for index in range(len(picture.bands))
    ]
    [cut] = [band for band in found["bands"] if band["layers"] == ["stage1/block2/conv1"]]
    assert (cut["num_cut"], cut["num_blocks"], cut["capacity"], cut["saturation"]) == (2, 2, 2, 1)
    assert cut["multiplier"] == pytest.approx(2.8)


def test_names_from_the_model_stay_text():
    params = {HOSTILE: matrix(8, 8), "$summary": matrix(8, 8)}
    graph = FlowGraph(
        (Edge("loss", HOSTILE, "$summary"), Edge(HOSTILE, "data", HOSTILE)), warnings=(HOSTILE,)
    )
    state = state_of(graph, params, {"$summary": 1.0})
    page = flow_html(state, params, capacity="norm", graph=graph)
    assert HOSTILE not in page
    scripts = [tag for tag, _ in Page(page).elements if tag == "script"]
    assert len(scripts) == 2
    # What is written between slashes is a path of modules.
    names = {band["name"] for band in picture_in(page)["bands"]}
    assert names == {HOSTILE, "$summary"}
    assert f"warning: {html.escape(HOSTILE)}" in page


def test_numbers_without_bound_are_null(deep):
    params, graph = residual(1, 1)
    free = FlowGraph(tuple(edge._replace(capacity=np.inf) for edge in graph.edges))
    page = flow_html(state_of(free, params, {}), params, capacity="norm", graph=free)
    [skip] = [band for band in picture_in(page)["bands"] if not band["layers"]]
    assert skip["capacity"] is None
