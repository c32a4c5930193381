"""Which groups the cut asks to grow, and which have capacity to spare."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax import Edge, FlowGraph, pfn
from pfn_optax.growth import rank_groups, slack_groups
from pfn_optax.units import unit_spec
from tests.states import matrix, state_of

pytestmark = pytest.mark.usefixtures("unoptimized")

NAMES = ("a", "b", "c", "d")


def chain(*sizes):
    """Dense layers a, b, ... between these sizes, and their groups, named by what makes them."""
    names = NAMES[: len(sizes) - 1]
    params = {name: matrix(*sizes[i : i + 2]) for i, name in enumerate(names)}

    def predict(params, x):
        for name in names:
            x = x @ params[name]["kernel"]
            x = x if name == names[-1] else jnp.tanh(x)
        return x

    x = jax.ShapeDtypeStruct((2, sizes[0]), np.float32)
    return params, unit_spec(predict, params, x, check=False), FlowGraph.chain(names)


def ranking_of(sizes, capacities, **options):
    params, spec, graph = chain(*sizes)
    state = state_of(graph, params, capacities)
    return rank_groups(state, params, spec, capacity="norm", graph=graph, **options)


@pytest.mark.parametrize(
    ("sizes", "layer", "group"),
    [
        ((8, 4, 4, 4, 8), "b", "b"),  # as wide on both sides: what it produces
        ((8, 4, 2, 4, 8), "b", "b"),
        ((8, 4, 2, 4, 8), "c", "b"),  # what it reads is narrower
        ((8, 4, 2, 4, 3), "d", None),  # the outputs are narrower
        ((8, 4, 2, 4, 4), "d", "c"),  # the outputs are as wide
        ((3, 4, 4, 4, 8), "a", None),  # the data are narrower
        ((4, 4, 4, 4, 8), "a", "a"),
        ((8, 8), "a", None),
    ],
)
def test_a_layer_speaks_for_its_narrower_side(sizes, layer, group):
    ranking = ranking_of(sizes, {layer: 1.0})
    assert [ranked.group for ranked in ranking.groups] == ([group] if group else [])
    assert ranking.pinned == (() if group else (layer,))
    others = {"d": ["c"], "a": ["a"] if len(sizes) > 2 else []}
    beside = [ranked.group for ranked in ranking.beside]
    assert beside == ([] if group else others[layer])
    if group:
        assert ranking.groups[0].share == pytest.approx(1.0)
        assert ranking.groups[0].layers == (layer,)


def branches():
    """Two ways from the data to the loss, the one behind b as wide as it is narrow behind d."""
    sizes = {"a": (8, 6), "b": (6, 8), "c": (8, 4), "d": (4, 8)}
    params = {name: matrix(*size) for name, size in sizes.items()}

    def predict(params, x):
        kernels = {name: layer["kernel"] for name, layer in params.items()}
        left = jnp.tanh(x @ kernels["a"]) @ kernels["b"]
        return left + jnp.tanh(x @ kernels["c"]) @ kernels["d"]

    edges = (("loss", "x", "b"), ("x", "data", "a"), ("loss", "y", "d"), ("y", "data", "c"))
    x = jax.ShapeDtypeStruct((2, 8), np.float32)
    spec = unit_spec(predict, params, x, check=False)
    return params, spec, FlowGraph(tuple(Edge(*edge) for edge in edges))


def test_deep_and_long_comes_first():
    params, spec, graph = branches()
    state = state_of(graph, params, {"b": 1.0, "c": 3.0})
    options = {"capacity": "norm", "graph": graph}
    first, second = rank_groups(state, params, spec, **options).groups
    assert (first.group, first.share, first.score) == ("c", 0.75, 0.75)
    assert (second.group, second.share, second.persistence) == ("a", 0.25, 1)
    # Four times as long outweighs three times as deep.
    in_cut = [index for index, layer in enumerate("abcd") if layer == "b"]
    longer = state._replace(
        pfn_persistence=np.isin(np.arange(4), in_cut).astype(np.int32) * 3,
        pfn_diagnoses=np.int32(4),
    )
    first, second = rank_groups(longer, params, spec, **options).groups
    assert (first.group, first.persistence, first.score) == ("a", 4, 1.0)
    # What was found before the last change does not count.
    first, second = rank_groups(longer, params, spec, since=3, **options).groups
    assert (first.group, first.persistence, second.persistence) == ("c", 1, 1)
    assert rank_groups(longer, params, spec, since=4, **options) == ((), (), ())


def test_there_is_none_before_the_first_diagnosis():
    params, spec, graph = chain(8, 4, 8)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), params)
    state = pfn(capacity="norm", graph=graph).init(zeros)
    assert rank_groups(state, params, spec, capacity="norm", graph=graph) == ((), (), ())


def test_channels_count_and_not_the_pixels_or_the_taps():
    params = {
        "a": {"kernel": np.ones((3, 3, 2, 8), np.float32)},
        "b": {"kernel": np.ones((3, 3, 8, 16), np.float32)},
        "c": {"kernel": np.ones((64, 70), np.float32)},
    }

    def predict(params, x):
        for name in "ab":
            x = jax.lax.conv_general_dilated(
                x,
                params[name]["kernel"],
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            x = jax.nn.relu(x)
        return x.reshape(len(x), -1) @ params["c"]["kernel"]

    spec = unit_spec(predict, params, jnp.ones((1, 2, 2, 2)), check=False)
    graph = FlowGraph.chain("abc")

    def asked(layer):
        state = state_of(graph, params, dict.fromkeys([layer], 0.5))
        ranking = rank_groups(state, params, spec, capacity="norm", graph=graph)
        return [ranked.group for ranked in ranking.groups]

    assert asked("a") == ["a"]  # a patch of the data has 18 numbers
    assert asked("b") == ["a"]  # 8 channels are read, however many taps there are
    assert asked("c") == ["b"]


def test_what_is_summed_without_weights_is_pinned():
    params = {"a": matrix(8, 2), "b": matrix(2, 8)}

    def predict(params, x):
        return jax.nn.softmax(x @ params["a"]["kernel"]) @ params["b"]["kernel"]

    x = jax.ShapeDtypeStruct((2, 8), np.float32)
    spec = unit_spec(predict, params, x, check=False)
    graph = FlowGraph.chain("ab")
    state = state_of(graph, params, {"a": 1.0})
    assert rank_groups(state, params, spec, capacity="norm", graph=graph) == ((), ("a",), ())


def test_slack_is_what_the_flow_leaves_unused():
    params, spec, graph = chain(8, 6, 6, 4, 8)
    state = state_of(graph, params, {"a": 5.0, "b": 10.0, "c": 2.0, "d": 4.0})
    found = slack_groups(state, params, spec, capacity="norm", graph=graph)
    # Of c the width bounds c, which is the cut, and d. b is bounded by both a and b, a by itself.
    assert [each.group for each in found] == ["b", "a"]
    assert found[0] == ("b", pytest.approx(0.8), ("b",))
    assert found[1] == ("a", pytest.approx(0.6), ("a", "b"))


def test_a_wide_group_between_narrow_ones_has_all_to_spare():
    params, spec, graph = chain(2, 9, 7, 9, 2)
    state = state_of(graph, params, {"d": 1.0})
    first, second = slack_groups(state, params, spec, capacity="norm", graph=graph)[:2]
    assert first == ("a", 1.0, ())
    assert second == ("c", 1.0, ())
