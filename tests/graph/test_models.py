"""The graphs of the zoo's models, stated by hand."""

import warnings

import jax
import numpy as np
import pytest

from pfn_optax import graph_from_loss, max_flow
from pfn_optax.graph import GraphWarning
from pfn_optax.partition import partition
from tests.graph.contraction import contracted
from tests.graph.isomorphism import same_up_to_names, triples_of
from tests.graph.minimum_cut import minimum_cut
from tests.zoo import IMAGENET, LARGE, SMALL
from tests.zoo.residual import blocks_of


def chain(*layers):
    """Edges of a chain; the layers are given from the loss to the data."""
    nodes = ["loss", *(f"after {index}" for index in range(1, len(layers))), "data"]
    return list(zip(nodes[:-1], nodes[1:], layers, strict=True))


def resnet(stages, width, bottleneck=False, **_):
    edges, entering = [("stem", "data", "stem")], "stem"
    for name, convolutions, projection in blocks_of(stages, width, bottleneck):
        shortcut = None if projection is None else f"{name}/projection"
        edges.append((name, entering, shortcut))
        inner = [f"{name} {index}" for index in range(1, len(convolutions))]
        nodes = [entering, *inner, name]
        for convolution, head, tail in zip(convolutions, nodes[:-1], nodes[1:], strict=True):
            edges.append((tail, head, f"{name}/{convolution.name}"))
        entering = name
    return [*edges, ("loss", entering, "head")]


def transformer(num_blocks=2):
    edges, x = [("embedded", "data", "embed")], "embedded"
    for block in (f"block{index}" for index in range(num_blocks)):
        attended, mixed, hidden, y = (
            f"{block} {name}" for name in ("attended", "mixed", "hidden", "output")
        )
        edges += [(attended, x, f"{block}/attention/{name}") for name in ("query", "key", "value")]
        edges += [(mixed, attended, f"{block}/attention/out"), (mixed, x, None)]
        edges += [(y, hidden, f"{block}/down"), (hidden, mixed, f"{block}/up"), (y, mixed, None)]
        x = y
    return [*edges, ("loss", x, "embed")]


def unet(depth=2, learned=True):
    edges, x = [], "data"
    for level in range(depth):
        edges.append((f"skip{level}", x, f"down{level}"))
        x = f"skip{level}"
    edges.append(("middle", x, "middle"))
    x = "middle"
    for level in reversed(range(depth)):
        # Without a layer between, what is resized is one node with what it joins.
        joined = f"joined{level}" if learned else x
        edges += [(joined, x, f"transpose{level}")] if learned else []
        edges.append((joined, f"skip{level}", None))
        edges.append((f"upper{level}", joined, f"up{level}"))
        x = f"upper{level}"
    return [*edges, ("loss", x, "head")]


DENSENET = [
    ("loss", "joined2", "head"),
    ("joined2", "joined1", "conv2"),
    ("joined2", "joined1", None),
    ("joined1", "joined0", "conv1"),
    ("joined1", "joined0", None),
    ("joined0", "stem", "conv0"),
    ("joined0", "stem", None),
    ("stem", "data", "stem"),
]

INCEPTION = [
    ("loss", "joined", "head"),
    ("joined", "stem", "one"),
    ("joined", "stem", "pooled"),
    ("joined", "inner three", "three"),
    ("inner three", "stem", "three_before"),
    ("joined", "inner five", "five"),
    ("inner five", "stem", "five_before"),
    ("stem", "data", "stem"),
]

LOW_RANK = [
    ("loss", "hidden", "dense1/kernel"),
    ("loss", "upper rank", "dense1/b"),
    ("upper rank", "hidden", "dense1/a"),
    ("hidden", "data", "dense0/kernel"),
    ("hidden", "lower rank", "dense0/b"),
    ("lower rank", "data", "dense0/a"),
]

# The second round of each loop is the one that reads a state which the data has reached.
ELMAN = [
    ("loss", "second", "head"),
    ("second", "first", "recurrent"),
    ("second", "data", "input"),
    ("first", "data", "input"),
]

GRU = [
    ("loss", "second", "head"),
    *[("second", "first", f"cell/{name}") for name in ("hr", "hz", "hn")],
    ("second", "first", None),
    *[
        (state, "data", f"cell/{name}")
        for state in ("first", "second")
        for name in ("ir", "iz", "in")
    ],
]

# The first round reads neither of its states, which are zero; the second keeps some of the cell.
LSTM = [
    ("loss", "second", "head"),
    *[("second", "first", f"cell/{name}") for name in ("hi", "hf", "hg", "ho")],
    *[("second", "data", f"cell/{name}") for name in ("ii", "if", "ig", "io")],
    ("second", "first cell", None),
    ("first", "first cell", None),
    ("first", "data", "cell/io"),
    *[("first cell", "data", f"cell/{name}") for name in ("ii", "if", "ig")],
]

SCANNED = [
    ("loss", "output", "head"),
    ("output", "hidden", "layers/down"),
    ("hidden", "stem", "layers/up"),
    ("output", "stem", None),
    ("stem", "data", "stem"),
]

EXPECTED = {
    "mlp": chain("Dense_2", "Dense_1", "Dense_0"),
    "plain_mlp": chain("2", "1", "0"),
    "autoencoder": chain("Dense_3", "Dense_2", "Dense_1", "Dense_0"),
    "weight_normalized": chain("Dense_1", "Dense_0"),
    "low_rank_adapted": LOW_RANK,
    "cnn": chain("Dense_1", "Dense_0", "Conv_1", "Conv_0"),
    "vgg": chain("classifier/Dense_1", "classifier/Dense_0", "Conv_2", "Conv_1", "Conv_0"),
    "densenet": DENSENET,
    "unet": unet(),
    "unet_resized": unet(learned=False),
    "inception": INCEPTION,
    "resnet": resnet((2, 1), 4),
    "resnet_bottleneck": resnet((2, 1), 4, bottleneck=True),
    "nnx_resnet": resnet((2, 1), 4),
    "nnx_resnet_bottleneck": resnet((2, 1), 4, bottleneck=True),
    "transformer": transformer(),
    "nnx_transformer": transformer(),
    "gru": GRU,
    "lstm": LSTM,
    "elman": ELMAN,
    "scanned_layers": SCANNED,
    "vgg16": chain(
        *(f"classifier/Dense_{index}" for index in (2, 1, 0)),
        *(f"Conv_{index}" for index in reversed(range(13))),
    ),
    "resnet20": resnet((3, 3, 3), 16),
    "resnet18": resnet((2, 2, 2, 2), **IMAGENET),
    "resnet50": resnet((3, 4, 6, 3), bottleneck=True, **IMAGENET),
    "nnx_resnet18": resnet((2, 2, 2, 2), **IMAGENET),
    "nnx_resnet50": resnet((3, 4, 6, 3), bottleneck=True, **IMAGENET),
}
MODELS = SMALL | LARGE


def derive(case):
    """The case's graph; that the autoencoder's input is also its target is no news here."""
    with warnings.catch_warnings():
        if case.name == "autoencoder":
            warnings.simplefilter("ignore", GraphWarning)
        return graph_from_loss(case.loss, case.params, *case.args)


def test_every_model_has_a_stated_graph():
    assert EXPECTED.keys() == MODELS.keys()


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_graph_is_the_stated_one(name):
    graph = derive(MODELS[name](make=jax.eval_shape))
    assert same_up_to_names(triples_of(graph), EXPECTED[name])
    assert graph.unreached == ()
    assert bool(graph.warnings) == (name == "autoencoder")


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_stated_graph_is_contracted(name):
    """Or the tests above would ask for an identity that says nothing."""
    assert same_up_to_names(EXPECTED[name], contracted(EXPECTED[name]))


@pytest.mark.parametrize("name", ["mlp", "nnx_transformer"])
def test_arrays_and_their_shapes_have_the_same_graph(name):
    assert derive(SMALL[name]()) == derive(SMALL[name](make=jax.eval_shape))


@pytest.mark.parametrize("name", ["densenet", "transformer", "gru"])
def test_minimum_cuts_are_those_of_the_stated_graph(name):
    """Random integer capacities, then each layer in turn made the narrowest."""
    case = SMALL[name](make=jax.eval_shape)
    layout = partition(case.params, block_size=3)
    graph = derive(case)
    bound = graph.bind(layout)
    rng = np.random.default_rng(0)
    random = rng.integers(1, 100, (8, layout.num_blocks))
    planted = rng.integers(50, 60, (len(graph.layers), layout.num_blocks))
    of_name = {layer.name: layer for layer in layout.layers}
    for row, layer in zip(planted, graph.layers, strict=True):
        row[of_name[layer].blocks] = 1
    blocks = np.concatenate([random, planted])

    edges = np.where(bound.edge_block < 0, bound.identity_capacity, blocks[:, bound.edge_block])
    solution = jax.jit(jax.vmap(lambda capacities: max_flow(bound.network, capacities)))(
        edges.astype(np.float32)
    )
    assert solution.certified.all()
    of_layer = {name: blocks[:, layer.blocks].sum(1) for name, layer in of_name.items()}
    for index, value in enumerate(solution.value):
        capacity_of = {layer: int(row[index]) for layer, row in of_layer.items()}
        assert value == minimum_cut(EXPECTED[name], capacity_of)


@pytest.mark.parametrize("name", ["resnet", "unet"])
def test_a_narrow_layer_that_every_path_passes_is_the_cut(name):
    case = SMALL[name](make=jax.eval_shape)
    layout = partition(case.params, block_size=2)
    bound = derive(case).bind(layout)
    capacities = np.full(layout.num_blocks, 10.0, np.float32)
    [stem] = [layer for layer in layout.layers if layer.name in ("stem", "down0")]
    capacities[stem.blocks] = 1
    edges = np.where(bound.edge_block < 0, bound.identity_capacity, capacities[bound.edge_block])
    cut = np.asarray(max_flow(bound.network, edges).cut)
    assert sorted(bound.edge_block[cut]) == list(range(stem.blocks.start, stem.blocks.stop))
