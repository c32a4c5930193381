import warnings
from collections.abc import Callable

import jax
from hypothesis import given, settings
from hypothesis import strategies as st

from pfn_optax import FlowGraph, graph_from_loss
from pfn_optax.graph import GraphWarning
from tests.graph.contraction import canonical, contracted
from tests.graph.isomorphism import same_up_to_names, triples_of
from tests.graph.minimum_cut import minimum_cut
from tests.graph.random_models import RandomModel, random_models


def derive(model: RandomModel, wrap: Callable = lambda loss: loss) -> FlowGraph:
    with warnings.catch_warnings():
        if model.unreached:
            warnings.simplefilter("ignore", GraphWarning)
        return graph_from_loss(wrap(model.loss), model.params, *model.args)


@settings(max_examples=300)
@given(random_models())
def test_the_graph_of_any_model_is_the_one_it_was_made_with(model):
    graph = derive(model)
    derived = triples_of(graph)
    assert same_up_to_names(derived, contracted(derived))
    assert same_up_to_names(canonical(derived), canonical(model.expected))
    assert set(graph.unreached) == model.unreached
    assert bool(graph.warnings) == bool(model.unreached)


@settings(max_examples=60)
@given(random_models(), st.randoms(use_true_random=False))
def test_its_minimum_cuts_are_those_of_the_model(model, random):
    """With no contraction but its own: every value of the model is a node of the reference."""
    derived = triples_of(derive(model))
    for _ in range(5):
        capacity_of = {module: random.randint(1, 9) for module in model.params}
        assert minimum_cut(derived, capacity_of) == minimum_cut(model.expected, capacity_of)


@settings(max_examples=30)
@given(random_models(), st.sampled_from((jax.jit, jax.checkpoint)))
def test_wrappers_of_the_loss_change_nothing(model, wrap):
    graph = derive(model, wrap)
    assert graph == derive(model)
    assert hash(graph) == hash(derive(model))


def test_the_reference_rule_keeps_what_a_cut_can_tell():
    """A skip between two values that other layers read and write stays; a lone join goes."""
    block = [
        ("loss", "sum", "head"),
        ("sum", "inner", "conv2"),
        ("inner", "stem", "conv1"),
        ("sum", "stem", None),
        ("stem", "data", "stem"),
    ]
    assert same_up_to_names(contracted(block), block)
    joined = [("loss", "sum", None), ("sum", "a", None), ("sum", "b", None)]
    layers = [("a", "data", "a"), ("b", "data", "b"), ("dead", "data", "dead")]
    parallel = [("loss", "data", "a"), ("loss", "data", "b")]
    assert same_up_to_names(contracted(joined + layers), parallel)
    assert not same_up_to_names(parallel, [("loss", "data", "a")] * 2)
