import functools
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfn_optax import Edge, FlowGraph, cut_report, draw_flow
from pfn_optax.drawing.bands import bands_of
from pfn_optax.drawing.layout import layout_of, spread
from pfn_optax.drawing.picture import MOST_LAYERS, picture_of
from pfn_optax.report import snapshot
from tests.states import matrix, residual, state_of, units

pytestmark = pytest.mark.usefixtures("unoptimized")

CUT = "stage1/block2/conv1"


@functools.cache
def known(kind):
    params, graph, capacities = MODELS[kind]()
    return snapshot(state_of(graph, params, capacities), params, capacity="norm", graph=graph)


def drawn(kind, **options):
    params, graph, capacities = MODELS[kind]()
    state = state_of(graph, params, capacities)
    return draw_flow(state, params, capacity="norm", graph=graph, **options)


def flat_chain():
    names = [f"Dense_{i}" for i in range(60)]
    return {name: matrix(8, 8) for name in names}, FlowGraph.chain(names), {"Dense_30": 2.0}


def u_net():
    """The encoder has two ways out, the decoder two ways in."""
    params = {
        "encoder": {"a": matrix(8, 8), "b": matrix(8, 8)},
        "decoder": {"a": matrix(8, 8), "b": matrix(8, 8)},
    }
    edges = (
        ("loss", "top", "decoder/a"),
        ("top", "bottom", "decoder/b"),
        ("bottom", "in", "encoder/b"),
        ("in", "data", "encoder/a"),
        ("top", "in", None, 2.0),
    )
    return params, FlowGraph(tuple(Edge(*edge) for edge in edges)), {"decoder/b": 1.0}


def branches():
    names = ["query", "key", "value"]
    params = {"attention": {name: matrix(8, 8) for name in names}, "head": matrix(8, 8)}
    edges = [Edge("mixed", "data", f"attention/{name}") for name in names]
    return params, FlowGraph((Edge("loss", "mixed", "head"), *edges)), {"head": 1.0}


MODELS = {
    "deep residual": lambda: (*residual(4, 4), {CUT: 1.0}),
    "small residual": lambda: (*residual(1, 2), {"stem": 1.0}),
    "units": lambda: (*units(8, 48, 32, 4), {"Dense_1": 1.0}),
    "flat chain": flat_chain,
    "U-Net": u_net,
    "branches": branches,
}


def shown_bands(picture):
    return [picture.bands[index] for index in picture.shown]


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("kind", MODELS)
def test_what_is_shown_holds_every_layer_once_and_conserves_the_flow(kind, fold):
    picture = picture_of(known(kind), fold=fold)
    bands = shown_bands(picture)
    layers = [layer for band in bands for layer in band.layers]
    assert set(layers) == {layer.name for layer in known(kind).layout.layers}
    if fold:
        assert len(layers) == len(set(layers))
    balance = dict.fromkeys(picture.rows, 0.0)
    for band in bands:
        balance[band.tail] -= band.flow
        balance[band.head] += band.flow
    flow = pytest.approx(float(known(kind).state.pfn_flow), rel=1e-5)
    assert -balance.pop("loss") == flow
    assert balance.pop("data") == flow
    assert list(balance.values()) == pytest.approx([0] * len(balance), abs=1e-4)


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("kind", MODELS)
def test_bands_add_up_the_capacities_of_their_edges(kind, fold):
    bound, state = known(kind).bound, known(kind).state
    bands = bands_of(known(kind), fold=fold)
    edges = bound.edge_block >= 0
    total = state.pfn_capacities[bound.edge_block[edges]].sum()
    assert sum(band.capacity for band in bands if band.layers) == pytest.approx(total, rel=1e-5)
    assert all(0 <= band.flow <= band.capacity * 1.00001 for band in bands)


@pytest.mark.parametrize("kind", MODELS)
def test_the_cut_is_never_folded_away(kind):
    picture = picture_of(known(kind))
    report_cut = {
        layer.name
        for layer in known(kind).layout.layers
        if known(kind).state.pfn_cut[layer.blocks].any()
    }
    marked = [band for band in shown_bands(picture) if band.num_cut]
    assert {layer for band in marked for layer in band.layers} == report_cut
    assert not any(band.members for band in marked)
    assert sum(band.flow for band in marked) == pytest.approx(known(kind).state.pfn_flow, rel=1e-5)


def test_modules_of_a_deep_network_fold_where_they_are_not_cut():
    picture = picture_of(known("deep residual"))
    folds = [band.name for band in shown_bands(picture) if band.members]
    blocks = [f"stage{stage}/block{block}" for stage in range(4) for block in range(4)]
    assert sorted(folds) == sorted(set(blocks) - {"stage1/block2"})
    assert len(shown_bands(picture)) < MOST_LAYERS
    around = [picture.bands[module].name for module in picture.open_modules]
    assert sorted(around) == ["stage0", "stage1", "stage1/block2", "stage2", "stage3"]
    labels = [picture.label(index) for index in picture.shown]
    assert {"head", "block0", "conv1"} <= set(labels)


def test_a_fold_passes_what_its_module_passes():
    picture = picture_of(known("deep residual"))
    fold = next(band for band in shown_bands(picture) if band.name == "stage0/block0")
    inside = [picture.bands[index] for index in fold.members]
    assert sorted(fold.layers) == [f"stage0/block0/conv{i}" for i in range(3)]
    assert fold.flow == pytest.approx(known("deep residual").state.pfn_flow, rel=1e-5)
    assert fold.capacity == sum(band.capacity for band in inside if band.layers)
    assert fold.saturation == max(band.saturation for band in inside)
    assert fold.num_blocks == sum(band.num_blocks for band in inside) == 6
    assert fold.norm == pytest.approx(np.sqrt(sum(band.norm**2 for band in inside)))


def test_runs_without_modules_fold_up_to_the_cut():
    bands = shown_bands(picture_of(known("flat chain")))
    assert [(band.name, len(band.layers)) for band in bands] == [
        ("Dense_30", 1),
        ("Dense_0 … Dense_29", 30),
        ("Dense_31 … Dense_59", 29),
    ]
    assert not any(
        band.members for band in shown_bands(picture_of(known("flat chain"), fold=False))
    )


def test_small_networks_are_not_folded():
    assert not picture_of(known("small residual")).folded


def test_a_module_with_two_ways_out_is_no_part():
    assert picture_of(known("U-Net")).modules == ()


def test_an_identity_in_the_cut_is_marked():
    [skip] = [band for band in shown_bands(picture_of(known("U-Net"))) if band.is_identity]
    assert (skip.num_cut, skip.flow) == (1, 2.0)


def test_the_cut_of_identities_is_on_the_side_of_the_state():
    """Two minimum cuts: the head, or the skip and the layer beside it."""
    params = {name: matrix(8, 8) for name in ("head", "inner", "stem")}
    graph = FlowGraph(
        (
            Edge("loss", "sum", "head"),
            Edge("sum", "stem", "inner"),
            Edge("sum", "stem", capacity=2.0),
            Edge("stem", "data", "stem"),
        )
    )
    state = state_of(graph, params, {"head": 5.0, "inner": 3.0, "stem": 9.0})
    assert not state.pfn_unique

    def skip_of(state):
        bands = bands_of(snapshot(state, params, capacity="norm", graph=graph), fold=True)
        return next(band for band in bands if band.is_identity)

    other = state._replace(pfn_cut=np.asarray([False, True, False]))
    assert {skip_of(state).num_cut, skip_of(other).num_cut} == {0, 1}
    assert skip_of(other).num_cut == 1


def test_groups_of_units_are_nodes_where_nothing_is_folded():
    folded, unfolded = (picture_of(known("units"), fold=fold) for fold in (True, False))
    assert set(folded.rows) == {"loss", "Dense_0", "Dense_1", "data"}
    assert len(unfolded.rows) == 2 + 3 + 2
    assert len(unfolded.shown) == 3 + 3 * 2 + 2


def test_flow_between_groups_of_one_value_is_a_loop():
    """A recurrent matrix leads from a group of units to another of the same value."""
    params = {name: matrix(8, 8) for name in ("in", "again", "out")}
    edges = (("loss", "h[0:4]", "out"), ("h[0:4]", "h[4:8]", "again"), ("h[4:8]", "data", "in"))
    graph = FlowGraph(tuple(Edge(*edge) for edge in edges))
    state = state_of(graph, params, {"again": 1.0})
    figure = draw_flow(state, params, capacity="norm", graph=graph)
    assert any("again" in text.get_text() for text in figure.axes[0].texts)


def test_options_that_give_another_flow():
    params, graph, capacities = MODELS["U-Net"]()
    narrow = FlowGraph(tuple(edge._replace(width=0.5) for edge in graph.edges))
    state = state_of(narrow, params, capacities)
    with pytest.raises(
        ValueError, match=r"must be the state's, 3, .* it is 1\.5: pass the capacity"
    ):
        draw_flow(state, params, capacity="jacobian_rank", graph=narrow)


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("kind", MODELS)
def test_the_gradient_flows_downwards(kind, fold):
    layout = layout_of(picture_of(known(kind), fold=fold))
    assert all(stroke.start[1] < stroke.end[1] for stroke in layout.strokes.values())
    xs, ys = zip(*(place for _, place in layout.dots), strict=True)
    assert 0 <= min(xs) <= max(xs) <= layout.width
    assert 0 <= min(ys) <= max(ys) <= layout.height


@pytest.mark.parametrize("kind", MODELS)
def test_no_two_texts_overlap(kind):
    figure = drawn(kind)
    figure.canvas.draw()
    boxes = [(t.get_text(), t.get_window_extent()) for t in figure.axes[0].texts if t.get_text()]
    assert [
        (one, other)
        for (one, box), (other, second) in itertools.combinations(boxes, 2)
        if box.shrunk(0.9, 0.8).overlaps(second.shrunk(0.9, 0.8))
    ] == []


@given(st.lists(st.floats(-10, 10, width=32), max_size=12).map(sorted), st.floats(0, 2, width=16))
def test_spreading_leaves_gaps_and_the_middle(wanted, gap):
    moved = spread(wanted, gap)
    assert np.all(np.diff(moved) >= gap - 1e-6)
    assert sum(moved) == pytest.approx(sum(wanted), abs=1e-4)
    if np.all(np.diff(wanted) >= gap):
        assert moved == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("kind", MODELS)
def test_the_figure_names_what_is_shown_and_the_cut_in_red(kind, tmp_path):
    figure = drawn(kind)
    picture = picture_of(known(kind))
    texts = [text.get_text() for text in figure.axes[0].texts]
    words = {word for text in texts for word in text.split()}
    for index in picture.shown:
        if picture.bands[index].layers:
            assert set(picture.label(index).split()) <= words
    assert {"loss", "data"} <= words
    red = {t.get_text().split()[0] for t in figure.axes[0].texts if t.get_color() == "crimson"}
    assert red == {picture.label(i) for i in picture.shown if picture.bands[i].num_cut}
    assert max(figure.get_size_inches()) < 20
    figure.savefig(tmp_path / "flow.png")
    assert (tmp_path / "flow.png").stat().st_size > 10_000


def test_the_title_says_what_is_known():
    params, graph, capacities = MODELS["U-Net"]()
    report = cut_report(state_of(graph, params, capacities), params, graph=graph)
    assert drawn("U-Net").axes[0].get_title() == report.summary.replace("; ", "\n")


def test_drawing_on_given_axes():
    from matplotlib.figure import Figure

    figure = Figure()
    assert drawn("branches", axes=figure.add_subplot()) is figure
