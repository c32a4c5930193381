"""What PFN does with trees, values and options that it cannot use."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfn_optax import DiagnosisError, Edge, FlowGraph, Status, pfn, raise_for_status, with_pfn
from tests.trees import dense

pytestmark = pytest.mark.usefixtures("unoptimized")

PARAMS = dense(0, 4, 20, 20, 3)


def diagnose(grads, state=None, params=PARAMS, **options):
    optimizer = pfn(**{"capacity": "norm", "every": 1, **options})
    state = optimizer.init(params) if state is None else state
    return optimizer.update(grads, state, params)


@pytest.mark.parametrize("form", [pfn, lambda **options: with_pfn(optax.sgd(0.1), **options)])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"beta": -1.0}, "beta must be finite and at least 0, got -1.0"),
        ({"beta": float("nan")}, "beta must be finite"),
        ({"gamma": -0.1}, "gamma must be finite and at least 0"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\), got 1.0"),
        ({"ema_window": 0}, "ema_window must be at least 1"),
        ({"max_persistence": -1}, "max_persistence must be at least 0"),
        ({"side": "left"}, "side must be 'source' or 'sink', got 'left'"),
        ({"capacity": "size"}, "capacity must be one of"),
        ({"graph": "chain"}, "graph must be a FlowGraph or None"),
        ({"block_size": 0}, "block_size must be a positive Python integer"),
        ({"block_size": 1, "num_blocks": 1}, "block_size or num_blocks, not both"),
    ],
)
def test_a_bad_constant_raises_in_the_factory(form, options, message):
    with pytest.raises(ValueError, match=message):
        form(**options)


def test_unknown_layers_are_named_with_those_near():
    with pytest.raises(ValueError, match=r"do not have: Dense_7\. .* near 'Dense_7' .*Dense_0"):
        pfn(graph=FlowGraph.chain(["Dense_0", "Dense_7"])).init(PARAMS)


@pytest.mark.parametrize(
    ("edge", "message"),
    [
        (Edge("a", "a", "x"), "joins one to itself"),
        (Edge("a", "b", None, -1.0), "negative or NaN"),
        (Edge("a", "b", None, float("nan")), "negative or NaN"),
    ],
)
def test_a_bad_graph_raises(edge, message):
    with pytest.raises(ValueError, match=message):
        FlowGraph((edge,))
    with pytest.raises(ValueError, match="must differ"):
        FlowGraph((), source="x", sink="x")


@pytest.mark.parametrize("tree", [{}, [], None, {"a": {}}, {"a": None}, {"steps": jnp.arange(3)}])
def test_a_tree_without_floating_leaves_passes_through(tree):
    updates, state = diagnose(tree, params=tree)
    chex.assert_trees_all_equal(updates, tree)
    assert state.pfn_status == Status.WAITING
    assert state.pfn_norms.shape == (0,)


def test_a_tree_without_a_matrix_has_a_layer_per_leaf():
    tree = {"a": jnp.ones(3), "b": jnp.full(40, 0.1), "c": jnp.float32(7.0)}
    _, state = diagnose(tree, params=tree)
    np.testing.assert_array_equal(state.pfn_cut, [0, 1, 1, 1, 0])


def test_integer_leaves_pass_and_complex_ones_take_part():
    tree = {"a": jnp.ones((2, 2), jnp.complex64) * 1j, "b": jnp.ones((2, 2)), "n": jnp.arange(4)}
    updates, state = diagnose(tree, params=tree, capacity="sensitivity")
    assert state.pfn_certified
    chex.assert_trees_all_equal(updates["n"], tree["n"])
    np.testing.assert_allclose(updates["a"] / tree["a"], state.pfn_multipliers[0], rtol=1e-6)


def test_integer_parameters_with_float0_gradients():
    params = {"w": jnp.ones((2, 2)), "n": jnp.arange(4)}
    grads = jax.grad(lambda p: p["w"].sum(), allow_int=True)(params)
    updates, _ = pfn(every=1).update(grads, pfn(every=1).init(params), params)
    assert updates["n"].dtype == jax.dtypes.float0


def test_a_block_larger_than_the_layer_is_the_layer():
    _, state = diagnose(PARAMS, block_size=1000)
    assert state.pfn_norms.shape == (3,)


def test_another_tree_than_at_init_is_refused():
    state = pfn().init(PARAMS)
    with pytest.raises(ValueError, match=r"make 2 blocks \(Dense_0\).* initialised with 5"):
        pfn().update(dense(0, 4, 20), state)


def test_missing_params_are_asked_for():
    optimizer = pfn(capacity="sensitivity", every=1)
    with pytest.raises(ValueError, match=r"call update\(updates, state, params\)"):
        optimizer.update(PARAMS, optimizer.init(PARAMS))


def test_a_capacity_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape \(5,\), got shape \(\)"):
        diagnose(PARAMS, capacity=lambda known, layout: jnp.float32(1))


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_non_finite_gradients_change_nothing_but_the_status(bad):
    _, good = diagnose(PARAMS)
    broken = jax.tree.map(lambda x: x, PARAMS)
    broken["Dense_1"]["kernel"] = broken["Dense_1"]["kernel"].at[0, 0].set(bad)
    updates, state = diagnose(broken, good)
    assert state.pfn_status == Status.NONFINITE_GRADIENT
    assert state.pfn_nonfinite == 1
    unchanged = (
        "norms",
        "capacities",
        "cut",
        "persistence",
        "multipliers",
        "measured",
        "diagnoses",
    )
    for name in unchanged:
        chex.assert_trees_all_equal(getattr(state, f"pfn_{name}"), getattr(good, f"pfn_{name}"))
    assert np.isfinite(updates["Dense_0"]["kernel"]).all()
    with pytest.raises(DiagnosisError, match=r"NONFINITE_GRADIENT at step 2.*NaN or infinity"):
        raise_for_status(state)
    _, healed = diagnose(PARAMS, state)
    assert healed.pfn_status == Status.CERTIFIED
    raise_for_status(healed)


def test_gradients_that_were_never_finite():
    nan = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), PARAMS)
    _, state = diagnose(nan)
    np.testing.assert_array_equal(state.pfn_multipliers, 1)
    np.testing.assert_array_equal(state.pfn_norms, 0)


def test_zero_gradients():
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, state = diagnose(zeros)
    assert state.pfn_status == Status.ZERO_GRADIENT
    np.testing.assert_array_equal(state.pfn_multipliers, 1)
    chex.assert_trees_all_equal(updates, zeros)
    with pytest.raises(DiagnosisError, match="ZERO_GRADIENT"):
        raise_for_status((state, optax.EmptyState()))


def test_a_dead_layer_is_the_cut():
    grads = {**PARAMS, "Dense_1": jax.tree.map(jnp.zeros_like, PARAMS["Dense_1"])}
    _, state = diagnose(grads)
    np.testing.assert_array_equal(state.pfn_cut, [0, 0, 1, 1, 0])
    assert state.pfn_flow == 0
    assert state.pfn_status == Status.CERTIFIED


def test_a_capacity_with_nan_is_not_certified():
    _, good = diagnose(PARAMS)
    _, state = diagnose(PARAMS, good, capacity=lambda known, layout: known.gradient_norms * jnp.nan)
    assert state.pfn_status == Status.UNCERTIFIED
    chex.assert_trees_all_equal(state.pfn_multipliers, good.pfn_multipliers)
    with pytest.raises(DiagnosisError, match="not certified"):
        raise_for_status(state)


@pytest.mark.parametrize("exponent", [-18, -10, 0, 10, 18])
def test_gradients_of_any_size_are_diagnosed_alike(exponent):
    grads = jax.tree.map(lambda x: x * 10.0**exponent, PARAMS)
    _, state = diagnose(grads)
    _, reference = diagnose(PARAMS)
    np.testing.assert_array_equal(state.pfn_cut, reference.pfn_cut)


def test_no_state_to_raise_for():
    with pytest.raises(ValueError, match="no PFNState"):
        raise_for_status(optax.adam(0.1).init(PARAMS))
