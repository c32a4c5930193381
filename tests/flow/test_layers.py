"""The form of tensors between layers: the same answers as padded rows, and where it is used."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax.flow import FlowNetwork, certify, max_flow
from pfn_optax.flow.layers import Layers, form_of, layers_of
from pfn_optax.flow.layout import UNREACHABLE, layout_of
from pfn_optax.flow.solve import solve
from tests.compilation import UNOPTIMIZED
from tests.flow.families import CAPACITIES, NETWORKS, cut_of, draw, layered, oracle


def ragged(*widths):
    """Layers of these widths, every second edge between neighbours; nodes in random order."""
    rng = np.random.default_rng(0)
    nodes = rng.permutation(sum(widths)).tolist()
    layers = [[nodes.pop() for _ in range(width)] for width in widths]
    source, sink = sum(widths), 1 + sum(widths)
    pairs = [(u, v) for a, b in itertools.pairwise(layers) for u in a for v in b]
    edges = [edge for edge in pairs if edge[1] == layers[-1][0] or rng.random() < 0.5]
    # So that each has a way to the next layer, and the ends are joined to more than one layer.
    edges += [(u, b[0]) for a, b in itertools.pairwise(layers) for u in a]
    edges += [(source, v) for v in layers[0] + layers[2]] + [(v, sink) for v in layers[-1]]
    return FlowNetwork.from_edges(edges, source=source, sink=sink)


LAYERED = {"even": layered(5, 4), "ragged": ragged(3, 9, 2, 12, 1, 4)}


def with_edges(network, *edges):
    """The network with more edges."""
    known = zip(network.tails, network.heads, strict=True)
    return FlowNetwork.from_edges([*known, *edges], source=network.source, sink=network.sink)


# From each layer to the next but one, and farther, several at some nodes and two in parallel.
SKIPS = NETWORKS["skips"]
LAYERED |= {
    "skips": SKIPS,
    "long skips": with_edges(SKIPS, (0, 12), (0, 17), (0, 17), (5, 20), (6, 20), (9, 21)),
}


@functools.cache
def solver(network, *, in_layers):
    layout = layout_of(network)
    form = layers_of(layout) if in_layers else layout
    one = functools.partial(solve, network, return_flow=True, form=form)
    compiled = jax.jit(jax.vmap(one), compiler_options=UNOPTIMIZED)
    return lambda capacities: jax.tree.map(np.asarray, compiled(jnp.asarray(capacities)))


@functools.cache
def checker(network):
    check = jax.vmap(lambda c, f, s: certify(network, c, f, s, rtol=1e-4))
    return jax.jit(check, compiler_options=UNOPTIMIZED)


@pytest.mark.parametrize("family", CAPACITIES)
@pytest.mark.parametrize("name", LAYERED)
def test_agrees_with_padded_rows_and_igraph(name, family):
    network = LAYERED[name]
    capacities = draw(family, network, seed=11)
    layers = solver(network, in_layers=True)(capacities)
    rows = solver(network, in_layers=False)(capacities)
    np.testing.assert_array_equal(layers.is_finite, rows.is_finite)
    finite = np.flatnonzero(rows.is_finite)
    np.testing.assert_array_equal(layers.sides[finite], rows.sides[finite])
    for side in (0, 1):
        accepted = checker(network)(capacities, layers.flow, layers.sides[:, side])
        assert accepted[finite].all()
    for i in finite:
        cut = cut_of(network, layers.sides[i, 0])
        truth = oracle(network, capacities[i])
        np.testing.assert_allclose(capacities[i][cut].sum(), truth.value, rtol=1e-5)


@pytest.mark.parametrize("name", LAYERED)
def test_rows_lie_in_layers(name):
    network = LAYERED[name]
    layout = layout_of(network)
    layers = layers_of(layout)
    assert isinstance(layers, Layers)
    rows = np.delete(layers.row, [network.source, network.sink])
    assert len(set(rows.tolist())) == layout.num_rows
    np.testing.assert_array_equal(
        layers.label[rows], layout.label[np.delete(layout.row, [network.source, network.sink])]
    )
    assert (np.delete(layers.label, rows) == UNREACHABLE).all()
    # One channel for each merged edge, none of them padding, and the ends where they belong.
    pairs = set(zip(network.tails, network.heads, strict=True))
    assert len(set(layers.channel.tolist())) == len(pairs)
    assert layers.channel.max() < layers.num_arcs + 2 * layers.num_rows
    tails, heads = np.array(network.tails), np.array(network.heads)
    leaves, enters = tails == network.source, heads == network.sink
    expected = layers.num_arcs + layers.row[heads[leaves]]
    np.testing.assert_array_equal(layers.channel[leaves], expected)
    expected = layers.num_arcs + layers.num_rows + layers.row[tails[enters]]
    np.testing.assert_array_equal(layers.channel[enters], expected)
    # Matrices hold what runs to the next layer, and nothing that skips one.
    steps = layers.row[heads] // layers.width - layers.row[tails] // layers.width
    inner = ~leaves & ~enters
    assert (steps[inner] >= 1).all()
    is_dense = layers.channel < layers.num_dense
    np.testing.assert_array_equal(is_dense[inner], (steps == 1)[inner])
    assert len(set(layers.channel[inner & ~is_dense].tolist())) == layers.first_skip.size


@pytest.mark.parametrize("name", ["complete", "sparse", "disconnected"])
def test_other_networks_have_no_layers(name):
    assert layers_of(layout_of(NETWORKS[name])) is None


def test_a_cycle_has_no_layers():
    network = LAYERED["even"]
    assert layers_of(layout_of(network)) is not None
    assert layers_of(layout_of(with_edges(network, (4, 0)))) is None


def test_the_form_is_chosen_by_size_and_padding():
    assert isinstance(form_of(layered(20, 24)), Layers)
    assert form_of(layered(4, 4)) is layout_of(layered(4, 4))
    # Wide layers at one end only: most of the tensors would be padding.
    uneven = ragged(2, 90, 90, *[4] * 30)
    assert layers_of(layout_of(uneven)) is not None
    assert form_of(uneven) is layout_of(uneven)
    # One row from which skips fan out: most of their bucket would be padding.
    fan = with_edges(layered(20, 24), *((0, v) for v in range(72, 480)))
    assert layers_of(layout_of(fan)).skips.head.shape[0] > 400
    assert form_of(fan) is layout_of(fan)


def test_large_layers_are_certified():
    network = layered(20, 24)
    capacities = np.random.default_rng(3).uniform(0.1, 1, network.num_edges).astype(np.float32)
    capacities[: 2 * 24] = 100
    answer = max_flow(network, capacities)
    truth = oracle(network, capacities)
    assert answer.certified
    np.testing.assert_allclose(answer.value, truth.value, rtol=1e-5)
    assert answer.unique
    np.testing.assert_array_equal(answer.source_side, truth.smallest)
