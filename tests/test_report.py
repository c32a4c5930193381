import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfn_optax import CutRow, FlowGraph, Status, cut_report, draw_flow, pfn, with_pfn
from tests.trees import dense

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


RESIDUAL = FlowGraph(
    (
        ("loss", "sum", "Dense_2"),
        ("sum", "stem", "Dense_1"),
        ("sum", "stem", None, 2.0),
        ("stem", "data", "Dense_0"),
    )
)


@pytest.mark.parametrize("graph", [None, RESIDUAL], ids=["chain", "residual"])
def test_every_layer_is_drawn_once_and_the_cut_is_named(graph):
    state = trained(graph=graph)
    figure = draw_flow(state, PARAMS, graph=graph)
    texts = " ".join(text.get_text() for text in figure.axes[0].texts)
    for name in (*PARAMS, "loss", "data"):
        assert texts.count(name) == 1, name
    marked = [text.get_text() for text in figure.axes[0].texts if text.get_color() == "crimson"]
    bottlenecks = cut_report(state, PARAMS, graph=graph).bottlenecks
    assert [text.split()[0] for text in marked] == list(bottlenecks)


def test_fifty_layers_fit_the_page(tmp_path):
    params = dense(1, *[20] * 51)
    figure = draw_flow(trained(params), params)
    width, height = figure.get_size_inches()
    assert max(width, height) < 24
    texts = [text.get_text().split()[0] for text in figure.axes[0].texts]
    assert all(name in texts for name in params)
    figure.savefig(tmp_path / "flow.png")


def test_drawing_on_given_axes():
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.add_subplot()
    assert draw_flow(trained(), PARAMS, axes=axes) is figure
