"""What is uncertain about a graph is said; what cannot be a graph is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import pallas
from jax.flatten_util import ravel_pytree

from pfn_optax import graph_from_loss, pfn
from pfn_optax.graph import GraphWarning
from tests.graph.isomorphism import same_up_to_names, triples_of
from tests.zoo import autoencoder, mlp, transformer

X = jnp.ones((2, 3))
CHAIN = [("loss", "hidden", "head"), ("hidden", "data", "stem")]


def dense(*names):
    return {name: {"kernel": jnp.ones((3, 3))} for name in names}


def loss_with(operation):
    """A stem, an operation and a head."""

    def loss(params, x):
        x = operation(params, x @ params["stem"]["kernel"])
        return jnp.mean((x @ params["head"]["kernel"]) ** 2)

    return loss


def plain(params, x):
    return jax.nn.relu(x)


def test_nothing_uncertain_is_no_warning():
    """Warnings are errors here."""
    assert graph_from_loss(loss_with(plain), dense("stem", "head"), X).warnings == ()


def test_parameters_that_are_not_used():
    params = dense("stem", "unused", "head")
    with pytest.warns(GraphWarning, match="does not depend on 'unused/kernel'"):
        graph = graph_from_loss(loss_with(plain), params, X)
    assert graph.unreached == ("unused/kernel",)
    assert "unused/kernel" in graph.warnings[0]
    assert same_up_to_names(triples_of(graph), CHAIN)


def test_parameters_that_no_gradient_reaches():
    params = dense("stem", "frozen", "head")

    def frozen(params, x):
        return x + jax.lax.stop_gradient(x @ params["frozen"]["kernel"])

    with pytest.warns(GraphWarning, match="frozen/kernel"):
        graph = graph_from_loss(loss_with(frozen), params, X)
    assert graph.unreached == ("frozen/kernel",)


def test_several_unused_parameters_come_in_natural_order():
    params = dense("stem", "dead10", "dead2", "head")
    with pytest.warns(GraphWarning, match="dead2/kernel"):
        graph = graph_from_loss(loss_with(plain), params, X)
    assert graph.unreached == ("dead2/kernel", "dead10/kernel")


@pytest.mark.parametrize("bare", [True, False], ids=["bare", "in a dict"])
def test_raveled_parameters(bare):
    vector, unravel = ravel_pytree(dense("stem", "head"))
    params = vector if bare else {"flat": vector, "other": jnp.ones((3, 3))}

    def loss(params, x):
        x = x if bare else x @ params["other"]
        return loss_with(plain)(unravel(params if bare else params["flat"]), x)

    name = "params" if bare else "flat"
    with pytest.warns(GraphWarning, match=f"'{name}' is a vector .* Pass the tree"):
        graph = graph_from_loss(loss, params, X)
    assert any(name in text for text in graph.warnings)


def pallas_relu(params, x):
    def kernel(x_ref, y_ref):
        y_ref[...] = jnp.maximum(x_ref[...], 0.0)

    return pallas.pallas_call(kernel, jax.ShapeDtypeStruct(x.shape, x.dtype), interpret=True)(x)


def callback(params, x):
    return jax.pure_callback(lambda x: np.tanh(x), jax.ShapeDtypeStruct(x.shape, x.dtype), x)


@pytest.mark.parametrize(
    ("operation", "primitive"),
    [(pallas_relu, "pallas_call"), (callback, "pure_callback")],
    ids=["pallas_call", "pure_callback"],
)
def test_operations_that_cannot_be_looked_into(operation, primitive):
    with pytest.warns(GraphWarning, match=primitive):
        graph = graph_from_loss(loss_with(operation), dense("stem", "head"), X)
    assert any(primitive in text for text in graph.warnings)
    assert same_up_to_names(triples_of(graph), CHAIN)


def test_a_layer_inside_such_an_operation_stays_an_edge():
    def multiply(params, x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(np.matmul, shape, x, params["inner"]["kernel"])

    params = dense("stem", "inner", "head")
    with pytest.warns(GraphWarning, match="pure_callback.*'inner/kernel' enters"):
        graph = graph_from_loss(loss_with(multiply), params, X)
    chain = [("loss", "b", "head"), ("b", "a", "inner"), ("a", "data", "stem")]
    assert same_up_to_names(triples_of(graph), chain)


def test_an_input_that_is_its_own_target():
    case = autoencoder(make=jax.eval_shape)
    with pytest.warns(GraphWarning, match=r"'args\[0\]' also reaches the loss through no layer"):
        graph = graph_from_loss(case.loss, case.params, *case.args)
    assert [edge.layer for edge in graph.edges if edge.head == "data"] == ["Dense_0"]
    assert all(edge.layer for edge in graph.edges)


def test_tokens_that_are_their_own_targets():
    """Next-token prediction from one array: its last path to the loss is of whole numbers."""
    case = transformer(make=jax.eval_shape)

    def loss(params, batch):
        logits = case.apply(params, batch["tokens"], batch["tokens"])
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits[:, :-1], batch["tokens"][:, 1:]
        )
        return losses.mean()

    expected = graph_from_loss(case.loss, case.params, *case.args)
    graph = graph_from_loss(loss, case.params, {"tokens": case.args[0]})
    assert same_up_to_names(triples_of(graph), triples_of(expected))


@pytest.mark.parametrize(
    ("args", "path"),
    [
        ((X.at[0, 0].set(jnp.nan),), r"args\[0\]"),
        (({"x": X.at[0, 0].set(jnp.nan)},), r"args\[0\]/x"),
        ((X, {"y": [np.full(3, np.nan)]}), r"args\[1\]/y/0"),
    ],
    ids=["array", "dict", "nested"],
)
def test_nan_in_the_batch(args, path):
    def loss(params, x, *_):
        return loss_with(plain)(params, jax.tree.leaves(x)[0])

    with pytest.warns(GraphWarning, match=f"'{path}' holds NaN"):
        graph = graph_from_loss(loss, dense("stem", "head"), *args)
    assert same_up_to_names(triples_of(graph), CHAIN)


def test_nan_in_the_parameters():
    params = dense("stem", "head")
    params["head"]["kernel"] = params["head"]["kernel"].at[0].set(jnp.nan)
    with pytest.warns(GraphWarning, match="'params/head/kernel' holds NaN"):
        graph_from_loss(loss_with(plain), params, X)


def test_warnings_point_at_the_caller():
    with pytest.warns(GraphWarning, match="unused") as caught:
        graph_from_loss(loss_with(plain), dense("stem", "unused", "head"), X)
    assert [record.filename for record in caught] == [__file__]


def test_a_loss_without_data():
    def penalty(params):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))

    with pytest.raises(ValueError, match="depends on no data through any layer"):
        graph_from_loss(penalty, dense("stem", "head"))
    with pytest.raises(ValueError, match="depends on no data through any layer"):
        graph_from_loss(lambda params, x: penalty(params) + x.sum(), dense("stem"), X)


def test_a_loss_that_is_not_one_number():
    def losses(params, x):
        return (x @ params["stem"]["kernel"]).sum(1)

    with pytest.raises(ValueError, match="one number"):
        graph_from_loss(losses, dense("stem"), X)
    with pytest.raises(ValueError, match="has_aux=True"):
        graph_from_loss(lambda *args: (losses(*args).sum(), {}), dense("stem"), X)


def test_an_argument_that_is_no_array():
    with pytest.raises(TypeError, match="close over it"):
        graph_from_loss(
            lambda params, x, mode: loss_with(plain)(params, x), dense("stem"), X, "train"
        )


def test_a_graph_of_another_model():
    case = mlp(make=jax.eval_shape)
    graph = graph_from_loss(case.loss, case.params, *case.args)
    with pytest.raises(ValueError, match="graph names layers that the parameters do not have"):
        pfn(graph=graph).init(dense("stem", "head"))
