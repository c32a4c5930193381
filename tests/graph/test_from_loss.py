"""What makes an edge, what makes a junction and what makes neither, one function at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType, PartitionSpec

from pfn_optax import Edge, graph_from_loss
from pfn_optax.partition import partition
from tests.graph.isomorphism import same_up_to_names, triples_of

X = jax.ShapeDtypeStruct((2, 3), jnp.float32)
PARAMS = {
    name: {"kernel": jax.ShapeDtypeStruct((3, 3), jnp.float32)}
    for name in ("stem", "a", "b", "head")
}
STEM = ("stem", "data", "stem")
RESIDUAL = [
    ("loss", "sum", "head"),
    ("sum", "inner", "b"),
    ("inner", "stem", "a"),
    ("sum", "stem", None),
    STEM,
]


def apply(params, name, x):
    return x @ params[name]["kernel"]


def between(middle):
    """The loss of a model with something between its stem and its head."""

    def loss(params, x, *rest):
        x = middle(params, apply(params, "stem", x), *rest)
        return jnp.mean(apply(params, "head", x) ** 2)

    return loss


def residual(params, x):
    return x + apply(params, "b", jax.nn.relu(apply(params, "a", x)))


def with_own_jvp(function):
    wrapped = jax.custom_jvp(function)
    wrapped.defjvp(lambda primals, tangents: jax.jvp(function, primals, tangents))
    return wrapped


def graph_of(middle, *args, params=None):
    """The graph between stem and head, of those of the layers that `middle` uses."""
    return graph_from_loss(between(middle), params or PARAMS, X, *args)


def only(*names):
    return {name: PARAMS[name] for name in ("stem", *names, "head")}


def test_a_residual_block():
    graph = graph_of(residual)
    assert same_up_to_names(triples_of(graph), RESIDUAL)
    assert (graph.warnings, graph.unreached, graph.layout) == ((), (), None)


def test_an_identity_knows_its_channels():
    [skip] = [edge for edge in graph_of(residual).edges if edge.layer is None]
    assert (skip.capacity, skip.width) == (np.inf, 3)


@pytest.mark.parametrize(
    "join",
    [
        lambda x, y: x + y,
        lambda x, y: x * y,
        lambda x, y: x / (1 + y**2),
        jnp.maximum,
        lambda x, y: jnp.where(x > 0, x, y),
        lambda x, y: jnp.stack([x, y]).sum(0),
        lambda x, y: jnp.einsum("bi,bi,bj->bj", x, y, x),
        lambda x, y: jnp.zeros((4, 3)).at[:2].set(x).at[2:].set(y),
        lambda x, y: jax.lax.cond(x.sum() > 0, lambda: x, lambda: y),
        lambda x, y: jax.lax.fori_loop(0, 2, lambda _, z: jnp.tanh(z + y), x),
        lambda x, y: jax.lax.while_loop(lambda z: z.sum() < 0, lambda z: z + y, x),
    ],
    ids=[
        "sum",
        "product",
        "quotient",
        "maximum",
        "where",
        "stack",
        "einsum",
        "scatter",
        "cond",
        "loop",
        "while",
    ],
)
def test_values_that_meet_are_joined(join):
    """Two layers beside each other, whatever joins them."""
    graph = graph_of(
        lambda params, x: join(apply(params, "a", x), apply(params, "b", x)),
    )
    expected = [("loss", "joined", "head"), ("joined", "stem", "a"), ("joined", "stem", "b"), STEM]
    assert same_up_to_names(triples_of(graph), expected)


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x,
        jax.nn.gelu,
        jax.nn.softmax,
        jax.nn.logsumexp,
        lambda x: x + x.mean(0) - x[:1],
        lambda x: jnp.concatenate([x, -x], axis=0),
        lambda x: jax.lax.stop_gradient(x) * x,
        lambda x: jnp.pad(x, 1)[1:-1, 1:-1].T.reshape(2, 3),
        lambda x: x @ jnp.eye(3),
        lambda x: jax.image.resize(x, (4, 3), "linear"),
        lambda x: jnp.fft.irfft(jnp.fft.rfft(x), 3),
        lambda x: jnp.cumsum(x, axis=0).at[0].add(1.0),
        lambda x: x * (jax.random.uniform(jax.random.key(0), x.shape) > 0.5),
        lambda x: x.astype(jnp.bfloat16).astype(jnp.float32),
    ],
    ids=[
        "nothing",
        "gelu",
        "softmax",
        "logsumexp",
        "centre",
        "concatenate",
        "stop_gradient",
        "reshape",
        "constant",
        "resize",
        "fourier",
        "cumsum",
        "dropout",
        "cast",
    ],
)
def test_what_one_value_becomes_is_no_junction(operation):
    def middle(params, x):
        return jnp.ones((1, 3)) * operation(apply(params, "a", x))

    graph = graph_of(middle, params=only("a"))
    chain = [("loss", "after head", "head"), ("after head", "stem", "a"), STEM]
    assert same_up_to_names(triples_of(graph), chain)


@pytest.mark.parametrize(
    "wrap",
    [jax.jit, jax.checkpoint, jax.named_call, with_own_jvp],
    ids=["jit", "remat", "named_call", "custom_jvp"],
)
def test_wrappers_are_seen_through(wrap):
    """Outside of the loss and inside of it."""
    graph = graph_of(residual)
    assert graph_from_loss(wrap(between(residual)), PARAMS, X) == graph
    assert graph_of(wrap(residual)) == graph


def test_a_loss_mapped_over_examples():
    def loss(params, x):
        return jax.vmap(between(residual), (None, 0))(params, x).mean()

    assert graph_from_loss(loss, PARAMS, X) == graph_of(residual)


def test_sharded_code_is_seen_through():
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(AxisType.Auto,))
    specs = (PartitionSpec(), PartitionSpec("batch"))
    mapped = jax.shard_map(residual, mesh=mesh, in_specs=specs, out_specs=PartitionSpec("batch"))
    assert same_up_to_names(triples_of(graph_of(mapped)), RESIDUAL)


def test_collectives_of_named_axes():
    def loss(params, x):
        return jax.lax.pmean(between(residual)(params, x), "devices")

    assert graph_from_loss(loss, PARAMS, X, axes={"devices": 2}) == graph_of(residual)


def test_equal_graphs_are_equal_and_hash_alike():
    first, second = graph_of(residual), graph_of(residual)
    assert first == second
    assert hash(first) == hash(second)
    arrays = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), PARAMS)
    assert graph_of(residual, params=arrays) == first
    assert list(first.edges) == sorted(first.edges, key=lambda edge: (edge.tail, edge.head))
    assert all(isinstance(edge, Edge) for edge in first.edges)


def test_the_other_output_of_the_loss_is_not_looked_at():
    def with_aux(params, x):
        return between(residual)(params, x), {"seen": x, "norm": jnp.sum(params["a"]["kernel"])}

    assert graph_from_loss(with_aux, PARAMS, X, has_aux=True) == graph_of(residual)


def test_new_batch_statistics_are_such_an_output():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.BatchNorm(use_running_average=False)(nn.Dense(4, name="stem")(x))
            return nn.Dense(1, name="head")(nn.relu(x))

    variables = jax.eval_shape(Net().init, jax.random.key(0), X)

    def loss(params, statistics, x):
        variables = {"params": params, "batch_stats": statistics}
        y, new = Net().apply(variables, x, mutable=["batch_stats"])
        return jnp.mean(y**2), new

    graph = graph_from_loss(loss, variables["params"], variables["batch_stats"], X, has_aux=True)
    assert same_up_to_names(triples_of(graph), [("loss", "stem", "head"), STEM])


def test_targets_masks_and_statistics_are_no_data():
    """They meet what the layers computed before they meet a layer."""

    def loss(params, x, mask, statistics, targets):
        x = apply(params, "stem", x)
        x = (x - statistics["mean"]) / jnp.sqrt(statistics["var"] + 1e-5)
        y = apply(params, "head", jnp.where(mask, x, 0.0))
        return jnp.mean(mask * (y - targets) ** 2)

    statistics = {name: jax.ShapeDtypeStruct((3,), jnp.float32) for name in ("mean", "var")}
    mask = jax.ShapeDtypeStruct((2, 1), jnp.bool_)
    graph = graph_from_loss(loss, only(), X, mask, statistics, X)
    assert same_up_to_names(triples_of(graph), [("loss", "stem", "head"), STEM])
    assert graph.warnings == ()


def test_a_padding_mask_made_of_the_tokens_is_no_path():
    params = {"embed": {"embedding": jax.ShapeDtypeStruct((5, 3), jnp.float32)}} | only()

    def loss(params, tokens):
        x = apply(params, "stem", params["embed"]["embedding"][tokens])
        scores = x @ x.swapaxes(1, 2)
        weights = jax.nn.softmax(jnp.where(tokens[:, None] > 0, scores, -1e9))
        return jnp.mean(apply(params, "head", weights @ x) ** 2)

    graph = graph_from_loss(loss, params, jax.ShapeDtypeStruct((2, 4), jnp.int32))
    chain = [
        ("loss", "mixed", "head"),
        ("mixed", "embedded", "stem"),
        ("embedded", "data", "embed"),
    ]
    assert same_up_to_names(triples_of(graph), chain)


def test_random_keys_are_no_data():
    def middle(params, x, key):
        return x * jax.random.bernoulli(key, 0.5, x.shape) + jax.random.normal(key, x.shape)

    for key in (jax.random.key(0), jax.random.PRNGKey(0)):
        graph = graph_of(middle, key, params=only())
        assert same_up_to_names(triples_of(graph), [("loss", "stem", "head"), STEM])


def test_a_teacher_in_the_arguments_is_no_layer():
    def loss(params, x, teacher):
        targets = jax.lax.stop_gradient(apply(teacher, "stem", x))
        return jnp.mean((apply(params, "head", apply(params, "stem", x)) - targets) ** 2)

    graph = graph_from_loss(loss, only(), X, only())
    assert same_up_to_names(triples_of(graph), [("loss", "stem", "head"), STEM])


def test_rows_chosen_by_one_hot_vectors_are_looked_up():
    def loss(params, tokens):
        return jnp.mean(
            apply(params, "head", apply(params, "stem", jax.nn.one_hot(tokens, 3))) ** 2
        )

    graph = graph_from_loss(loss, only(), jax.ShapeDtypeStruct((2,), jnp.int32))
    assert same_up_to_names(triples_of(graph), [("loss", "stem", "head"), STEM])


def test_attention_between_two_inputs():
    def loss(params, source, target):
        source, target = apply(params, "source", source), apply(params, "target", target)
        scores = apply(params, "query", target) @ apply(params, "key", source).T
        mixed = jax.nn.softmax(scores) @ apply(params, "value", source)
        return jnp.mean(apply(params, "head", target + apply(params, "out", mixed)) ** 2)

    names = ("source", "target", "query", "key", "value", "out", "head")
    params = dict.fromkeys(names, PARAMS["head"])
    expected = [
        ("loss", "sum", "head"),
        ("sum", "target", None),
        ("sum", "mixed", "out"),
        ("mixed", "target", "query"),
        ("mixed", "source", "key"),
        ("mixed", "source", "value"),
        ("source", "data", "source"),
        ("target", "data", "target"),
    ]
    graph = graph_from_loss(loss, params, jax.ShapeDtypeStruct((5, 3), jnp.float32), X)
    assert same_up_to_names(triples_of(graph), expected)


def test_every_input_that_meets_a_layer_is_data():
    def loss(params, user, item):
        user, item = apply(params, "a", user), apply(params, "b", item)
        return jnp.mean(apply(params, "head", user * item) ** 2)

    params = {name: PARAMS[name] for name in ("a", "b", "head")}
    joined = [("loss", "product", "head"), ("product", "data", "a"), ("product", "data", "b")]
    assert same_up_to_names(triples_of(graph_from_loss(loss, params, X, X)), joined)


def test_a_batch_that_the_loss_closes_over_is_data():
    x = jnp.ones((2, 3))
    graph = graph_from_loss(lambda params: between(residual)(params, x), PARAMS)
    assert same_up_to_names(triples_of(graph), RESIDUAL)


@pytest.mark.parametrize(
    "term",
    [
        lambda params: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)),
        lambda params: jnp.abs(params["stem"]["kernel"]).mean(),
        lambda params: jnp.linalg.norm(params["stem"]["kernel"] @ params["head"]["kernel"]),
    ],
    ids=["l2", "l1", "of a product"],
)
def test_penalties_make_no_edge(term):
    def loss(params, x):
        return between(residual)(params, x) + 1e-4 * term(params)

    assert same_up_to_names(triples_of(graph_from_loss(loss, PARAMS, X)), RESIDUAL)


def test_vectors_and_positions_make_no_edge():
    params = only() | {
        "norm": {"scale": X.update(shape=(3,)), "bias": X.update(shape=(3,))},
        "positions": X,
    }

    def middle(params, x):
        x = x * params["norm"]["scale"] + params["norm"]["bias"]
        return x + params["positions"]

    graph = graph_of(middle, params=params)
    assert same_up_to_names(triples_of(graph), [("loss", "stem", "head"), STEM])
    assert graph.unreached == ()


def test_tied_layers_stand_on_several_edges():
    graph = graph_of(
        lambda params, x: apply(params, "a", jnp.tanh(apply(params, "a", x))), params=only("a")
    )
    twice = [("loss", "second", "head"), ("second", "first", "a"), ("first", "stem", "a"), STEM]
    assert same_up_to_names(triples_of(graph), twice)
    assert graph.layers == ("a", "head", "stem")


@pytest.mark.parametrize(
    "kernel",
    [
        lambda v: v / jnp.linalg.norm(v, axis=0),
        lambda v: v - v.mean(0),
        lambda v: v.astype(jnp.bfloat16).astype(jnp.float32),
        lambda v: jnp.round(v * 8) / 8 + (v - jax.lax.stop_gradient(v)),
        lambda v: v.T.reshape(9).reshape(3, 3),
        lambda v: v * jnp.asarray(np.tri(3)),
    ],
    ids=["normalised", "centred", "cast", "straight_through", "transposed", "masked"],
)
def test_a_matrix_made_from_a_parameter_is_its_layer(kernel):
    graph = graph_of(lambda params, x: x @ kernel(params["a"]["kernel"]), params=only("a"))
    chain = [("loss", "after a", "head"), ("after a", "stem", "a"), STEM]
    assert same_up_to_names(triples_of(graph), chain)


@pytest.mark.parametrize(
    "product",
    [
        lambda x, a, b: x @ (a @ b),
        lambda x, a, b: (x @ a) @ b,
        lambda x, a, b: ((b.T @ a.T) @ x.T).T,
        lambda x, a, b: jnp.einsum("bi,ij,jk->bk", x, a, b),
    ],
    ids=["factors_first", "data_first", "transposed", "einsum"],
)
def test_of_a_product_of_matrices_the_nearest_to_the_data_comes_first(product):
    graph = graph_of(lambda params, x: product(x, params["a"]["kernel"], params["b"]["kernel"]))
    chain = [
        ("loss", "after b", "head"),
        ("after b", "after a", "b"),
        ("after a", "stem", "a"),
        STEM,
    ]
    assert same_up_to_names(triples_of(graph), chain)


def test_a_loop_runs_until_it_reads_no_state_that_the_data_has_yet_to_reach():
    """The second state is fed by the first: it takes two rounds to reach both, and a third."""

    def middle(params, x):
        def step(states, _):
            return (apply(params, "a", x + states[0]), apply(params, "b", states[0])), None

        states = (jnp.zeros((2, 3)), jnp.zeros((2, 3)))
        return jax.lax.scan(step, states, None, length=5)[0][1]

    third_round = [
        ("loss", "second state", "head"),
        ("second state", "first state", "b"),
        ("first state", "sum", "a"),
        ("sum", "stem", "a"),
        ("sum", "stem", None),
        STEM,
    ]
    assert same_up_to_names(triples_of(graph_of(middle)), third_round)


def test_a_stateless_loop_counts_once():
    def middle(params, x):
        return jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(apply(params, "a", x)), x)

    chain = [("loss", "after a", "head"), ("after a", "stem", "a"), STEM]
    assert same_up_to_names(triples_of(graph_of(middle, params=only("a"))), chain)


def test_branches_of_a_cond_lie_beside_each_other():
    def middle(params, x, flag):
        return jax.lax.cond(flag, lambda: apply(params, "a", x), lambda: apply(params, "b", x))

    graph = graph_of(middle, jax.ShapeDtypeStruct((), jnp.bool_))
    beside = [("loss", "either", "head"), ("either", "stem", "a"), ("either", "stem", "b"), STEM]
    assert same_up_to_names(triples_of(graph), beside)


def test_its_layers_are_those_of_the_partition():
    graph = graph_of(residual)
    bound = graph.bind(partition(PARAMS, block_size=2))
    assert sorted(bound.edge_block[bound.edge_block >= 0]) == list(range(8))


def test_tokens_made_of_several_arguments_are_data():
    """Whole numbers computed from whole numbers still choose rows of the embedding."""

    def loss(params, tokens, keep):
        return jnp.sum(params["embed"][tokens * keep] @ params["head"])

    params = {"embed": jnp.ones((5, 3)), "head": jnp.ones((3, 2))}
    graph = graph_from_loss(loss, params, jnp.ones(4, int), jnp.ones(4, int))
    assert [edge.layer for edge in graph.edges] == ["embed", "head"]
    assert graph.warnings == ()


def test_a_matrix_and_its_transpose_together_are_one_layer():
    def loss(params, x):
        return jnp.sum(x @ (params["w"] + params["w"].T) @ params["head"])

    params = {"w": jnp.ones((3, 3)), "head": jnp.ones((3, 2))}
    graph = graph_from_loss(loss, params, jnp.ones((4, 3)))
    assert sorted(edge.layer for edge in graph.edges) == ["head", "w"]


def test_a_graph_can_be_drawn_inside_of_a_jitted_function():
    params = {"a": jnp.ones((3, 2)), "b": jnp.ones((2, 1), jnp.bfloat16)}

    def loss(params, x):
        return jnp.sum(jax.nn.relu(x @ params["a"]) @ params["b"].astype(jnp.float32))

    drawn = []

    @jax.jit
    def step(x):
        drawn.append(graph_from_loss(loss, params, x))
        return loss(params, x)

    step(jnp.ones((4, 3)))
    assert drawn == [graph_from_loss(loss, params, jnp.ones((4, 3)))]
