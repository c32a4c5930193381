import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfn_optax import CutReport, CutRow, FlowGraph, Status, cut_report, pfn, with_pfn
from pfn_optax.partition import partition
from tests.trees import dense

pytestmark = pytest.mark.usefixtures("unoptimized")

PARAMS = dense(0, 4, 20, 20, 3)


def trained(params=PARAMS, **options):
    optimizer = optax.chain(pfn(**{"capacity": "norm", "every": 1, **options}), optax.sgd(0.1))
    return optimizer.update(params, optimizer.init(params), params)[1]


def test_rows_say_what_the_state_says():
    state = trained(block_size=8)
    report = cut_report(state, PARAMS, block_size=8)
    assert [(row.layer, row.block, row.units) for row in report[:4]] == [
        ("Dense_0", 0, "0:8"),
        ("Dense_0", 1, "8:16"),
        ("Dense_0", 2, "16:20"),
        ("Dense_1", 0, "0:8"),
    ]
    assert len(report) == 7
    for field in ("norms", "cut", "multipliers", "capacities", "persistence"):
        name = {
            "norms": "norm",
            "cut": "in_cut",
            "multipliers": "multiplier",
            "capacities": "capacity",
        }.get(field, field)
        np.testing.assert_array_equal(
            [getattr(row, name) for row in report], optax.tree.get(state, f"pfn_{field}")
        )
    assert isinstance(report[0], CutRow)
    assert report.status is Status.CERTIFIED
    assert report.bottlenecks == tuple({row.layer: 0 for row in report if row.in_cut})
    assert report.bottlenecks


def test_it_prints_as_an_aligned_table():
    lines = str(cut_report(trained(), PARAMS)).splitlines()
    assert lines[0].startswith("step 1: certified; maximum flow ")
    assert len(lines) == 2 + 5
    assert [line.split()[0] for line in lines[2:]] == ["Dense_0"] * 2 + ["Dense_1"] * 2 + [
        "Dense_2"
    ]
    assert any("CUT" in line for line in lines)


def test_abstract_parameters_and_wrapped_states_will_do():
    optimizer = with_pfn(optax.adam(0.1), capacity="norm", every=1)
    _, state = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
    report = cut_report({"opt": state}, jax.eval_shape(lambda: PARAMS))
    assert report.rows == cut_report(state, PARAMS).rows


def test_nnx_optimizer_state():
    from flax import nnx

    model = nnx.Sequential(nnx.Linear(4, 20, rngs=nnx.Rngs(0)))
    optimizer = nnx.Optimizer(model, pfn(every=1), wrt=nnx.Param)
    grads = nnx.grad(lambda m: m(jnp.ones((3, 4))).sum())(model)
    optimizer.update(model, grads)
    report = cut_report(optimizer.opt_state, nnx.state(model, nnx.Param))
    assert report.bottlenecks == ("layers/0",)


def test_options_that_do_not_fit_the_state():
    with pytest.raises(ValueError, match="state has 5 blocks, these parameters make 7"):
        cut_report(trained(), PARAMS, block_size=8)
    with pytest.raises(ValueError, match="expected one PFNState in the optimizer state, found 0"):
        cut_report(optax.sgd(0.1).init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="found 2"):
        cut_report((trained(), trained()), PARAMS)
    batch = jax.tree.map(lambda x: jnp.stack([x, x]), trained())
    with pytest.raises(ValueError, match="batch of states"):
        cut_report(batch, PARAMS)


def report_of(*layers, notes=()):
    """A report on layers given as (name, number of blocks, numbers of the blocks in the cut)."""
    rows = tuple(
        CutRow(
            layer=name,
            block=block,
            units=f"{16 * block}:{16 * block + 16}",
            norm=3.0,
            capacity=2.0,
            in_cut=block in cut,
            persistence=4 if block in cut else 0,
            multiplier=3.88 if block in cut else 1.0,
        )
        for name, num_blocks, cut in layers
        for block in range(num_blocks)
    )
    return CutReport(rows, 7, 2.0, True, True, Status.CERTIFIED, notes)


def table_of(text):
    """The lines under the header, cut at two spaces or more."""
    lines = text.splitlines()
    [header] = [number for number, line in enumerate(lines) if line.startswith("layer ")]
    return [re.split(r"\s{2,}", line.strip()) for line in lines[header + 1 :]]


def num_blocks_in(table):
    folded = [re.fullmatch(r"(\d+) blocks", cells[1]) for cells in table]
    return sum(int(match[1]) if match else 1 for match in folded)


STAGES = [
    (f"net/stage{s}/block{b}/conv{c}", 8, ()) for s in range(4) for b in range(4) for c in range(3)
]


def test_forty_blocks_are_not_folded():
    report = report_of(("a", 20, (3,)), ("b", 20, ()))
    assert str(report) == report.full()
    assert len(table_of(str(report))) == 40
    assert "<details>" not in report._repr_html_()


def test_layers_outside_the_cut_fold_to_one_line():
    text = str(report_of(("a", 30, ()), ("b", 30, (3, 5)), ("c", 1, ())))
    assert text.splitlines()[1] == "blocks in the cut: b (2 of 30)"
    assert table_of(text) == [
        ["a", "30 blocks", "16.4", "60", "1.00"],
        ["b", "3", "48:64", "3", "2", "CUT", "4", "3.88"],
        ["b", "5", "80:96", "3", "2", "CUT", "4", "3.88"],
        ["b, the others", "28 blocks", "15.9", "56", "1.00"],
        ["c", "0", "0:16", "3", "2", "1.00"],
    ]


def test_modules_fold_where_there_are_many_layers():
    cut = ("net/stage1/block2/conv1", 8, (0, 1))
    report = report_of(*(cut if layer[0] == cut[0] else layer for layer in STAGES))
    table = table_of(str(report))
    assert num_blocks_in(table) == len(report) == 48 * 8
    assert table[0][:2] == ["net/stage0/block0/conv0 ... conv2, 3 layers", "24 blocks"]
    assert [cells[0] for cells in table if "block2" in cells[0] and "stage1" in cells[0]] == [
        "net/stage1/block2/conv0",
        cut[0],
        cut[0],
        f"{cut[0]}, the others",
        "net/stage1/block2/conv2",
    ]
    assert len(table_of(report.full())) == len(report)


def test_larger_modules_fold_where_there_are_more():
    deep = [(f"stage{s}/block{b}/conv", 1, ()) for s in range(3) for b in range(50)]
    table = table_of(str(report_of(*deep)))
    assert [cells[0] for cells in table] == [
        f"stage{s}/block0/conv ... block49/conv, 50 layers" for s in range(3)
    ]


def test_names_without_modules_fold_into_runs():
    layers = [(f"Dense_{i}", 1, (0,) if i == 60 else ()) for i in range(100)]
    assert [cells[0] for cells in table_of(str(report_of(*layers)))] == [
        "Dense_0 ... Dense_59, 60 layers",
        "Dense_60",
        "Dense_61 ... Dense_99, 39 layers",
    ]


def test_every_block_in_the_cut_has_its_line_however_many():
    table = table_of(str(report_of(("a", 100, range(99)), ("b", 100, ()))))
    assert [cells[1] for cells in table] == [*map(str, range(99)), "1 blocks", "100 blocks"]


def test_a_layer_that_is_wholly_in_the_cut_has_one_line():
    table = table_of(str(report_of(("a", 100, range(100)), ("b", 100, ()))))
    assert [cells[1] for cells in table] == ["100 blocks", "100 blocks"]
    assert ["CUT" in cells for cells in table] == [True, False]


def test_what_the_graph_leaves_out_is_said_at_the_end():
    graph = dataclasses.replace(
        FlowGraph.chain(["Dense_0", "Dense_2"]), warnings=("it is odd",), unreached=("Dense_1/x",)
    )
    report = cut_report(trained(graph=graph), PARAMS, graph=graph)
    assert str(report).splitlines()[-3:] == [
        "warning: it is odd",
        "the loss does not depend on: Dense_1/x",
        "on no edge of the graph, so never in the cut: Dense_1",
    ]
    assert report.notes == tuple(str(report).splitlines()[-3:])


def test_a_graph_that_brings_its_blocks():
    layout = partition(PARAMS, block_size=8)
    graph = dataclasses.replace(FlowGraph.chain(["Dense_0", "Dense_1", "Dense_2"]), layout=layout)
    state = trained(block_size=8)
    assert cut_report(state, PARAMS, graph=graph).rows == (
        cut_report(state, PARAMS, block_size=8).rows
    )
    with pytest.raises(
        ValueError, match=r"brings its own blocks.* got block_size=8\. Leave them out"
    ):
        cut_report(state, PARAMS, graph=graph, block_size=8)


def test_a_notebook_shows_the_folded_table_and_the_rest_on_request():
    report = report_of(("<b>&", 30, ()), ("b", 30, (3,)), notes=("warning: <i>",))
    text = report._repr_html_()
    folded, rest = text.split("<details>")
    assert folded.count("<tr") == 1 + 3  # header, a layer, a block in the cut and the others
    assert rest.count("<tr") == 1 + len(report)
    assert "<summary>all 60 blocks</summary>" in rest
    assert "<b>" not in text
    assert text.count('<td style="text-align:left">&lt;b&gt;&amp;</td>') == 1 + 30
    assert "warning: &lt;i&gt;" in text
    marked = re.findall(r"<tr style=[^>]*>(.*?)</tr>", text)
    assert len(marked) == 2
    assert all("CUT" in row for row in marked)
