"""The static half: validation, hashing and the layout's invariants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax.flow import FlowNetwork, max_flow
from pfn_optax.flow.layout import UNREACHABLE, layout_of
from tests.flow.families import NETWORKS, sparse


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, (0,), (1, 1), 0, 1), "1 tails and 2 heads"),
        ((2, (0,), (1,), 0, 0), "source and sink must differ, both are 0"),
        ((2, (0,), (2,), 0, 1), r"heads must be nodes in \[0, 2\), got 2 at edge 0"),
        ((2, (0, -1), (1, 1), 0, 1), r"tails must be nodes in \[0, 2\), got -1 at edge 1"),
        ((2, (), (), 0, 5), r"sink must be a node in \[0, 2\), got 5"),
        ((2, (), (), -1, 1), r"source must be a node in \[0, 2\), got -1"),
    ],
)
def test_bad_network_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FlowNetwork(*arguments)


def test_indices_must_be_integers():
    with pytest.raises(TypeError, match="integer"):
        FlowNetwork.from_edges([(0.5, 1)], source=0, sink=1)  # pyright: ignore[reportArgumentType]


def test_equal_networks_hash_alike_whatever_the_integers_are():
    plain = FlowNetwork.from_edges([(0, 1), (1, 2)], source=0, sink=2)
    numpy = FlowNetwork(np.int64(3), np.array([0, 1]), np.array([1, 2]), 0, 2)  # pyright: ignore
    assert plain == numpy
    assert hash(plain) == hash(numpy)
    assert layout_of(plain) is layout_of(numpy)
    assert plain != FlowNetwork.from_edges([(0, 1), (1, 2)], source=0, sink=1, num_nodes=3)


def test_network_without_edges():
    network = FlowNetwork.from_edges([], source=0, sink=3)
    assert (network.num_nodes, network.num_edges) == (4, 0)
    answer = max_flow(network, jnp.zeros(0))
    assert answer.value == 0
    assert answer.certified
    assert answer.source_side.tolist() == [True, False, False, False]


@pytest.mark.parametrize("name", NETWORKS)
def test_slots_are_the_arcs_seen_from_both_ends(name):
    network = NETWORKS[name]
    layout = layout_of(network)
    owner, start = [], 0
    for bucket in layout.buckets:
        rows = np.arange(start, start + bucket.head.shape[1])
        owner.append(np.broadcast_to(rows, bucket.head.shape).ravel())
        start += rows.size
    assert start == layout.num_rows
    owner = np.concatenate(owner)
    head = np.concatenate([bucket.head.ravel() for bucket in layout.buckets])
    out_arc = np.concatenate([bucket.out_arc.ravel() for bucket in layout.buckets])
    in_arc = np.concatenate([bucket.in_arc.ravel() for bucket in layout.buckets])

    is_used = out_arc < layout.num_arcs
    assert (head[~is_used] == owner[~is_used]).all()
    assert (in_arc[is_used] == (out_arc[is_used] + layout.num_arcs // 2) % layout.num_arcs).all()
    # Each arc leaves exactly one row and enters exactly one.
    assert sorted(out_arc[is_used]) == sorted(in_arc[is_used]) == list(range(layout.num_arcs))
    tail_of, head_of = np.empty((2, layout.num_arcs), int)
    tail_of[out_arc[is_used]], head_of[out_arc[is_used]] = owner[is_used], head[is_used]
    assert (tail_of[in_arc[is_used]] == head[is_used]).all()
    # Every inner edge is on the arc between its ends.
    inner = layout.channel < layout.num_arcs
    assert (tail_of[layout.channel[inner]] == layout.row[layout.tail[inner]]).all()
    assert (head_of[layout.channel[inner]] == layout.row[layout.head[inner]]).all()
    assert (out_arc[layout.first_slot] == np.arange(layout.num_arcs // 2)).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_labels_are_distances_to_the_sink(name):
    network = NETWORKS[name]
    layout = layout_of(network)
    distance = np.full(network.num_nodes, UNREACHABLE)
    distance[network.sink] = 0
    tails, heads = np.array(network.tails), np.array(network.heads)
    for _ in range(network.num_nodes):
        np.minimum.at(distance, tails, np.minimum(distance[heads] + 1, UNREACHABLE))
    inner = layout.row < layout.num_rows
    assert (layout.label[layout.row[inner]] == distance[inner]).all()


def test_a_hub_does_not_widen_the_other_rows():
    leaves = range(3, 3003)
    edges = [(0, 2)] + [(2, v) for v in leaves] + [(v, 1) for v in leaves]
    layout = layout_of(FlowNetwork.from_edges(edges, source=0, sink=1))
    assert layout.num_slots <= 2 * layout.num_arcs


@pytest.mark.parametrize("size", [300, 3000])
def test_slots_grow_with_the_edges(size):
    layout = layout_of(sparse(size, 5 * size, seed=0))
    assert layout.num_slots <= 2 * layout.num_arcs


def test_bad_capacities_are_refused():
    network = NETWORKS["disconnected"]
    with pytest.raises(ValueError, match=r"shape \(5,\), got \(3,\)"):
        max_flow(network, jnp.ones(3))
    with pytest.raises(ValueError, match="float32 or float64, got int32"):
        max_flow(network, jnp.ones(5, jnp.int32))
    with pytest.raises(ValueError, match="float32 or float64, got bfloat16"):
        jax.eval_shape(lambda c: max_flow(network, c), jax.ShapeDtypeStruct((5,), jnp.bfloat16))


def test_bad_options_are_refused():
    network = NETWORKS["disconnected"]
    with pytest.raises(ValueError, match="side must be"):
        max_flow(network, jnp.ones(5), side="left")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="max_rounds must be at least 1, got 0"):
        max_flow(network, jnp.ones(5), max_rounds=0)
