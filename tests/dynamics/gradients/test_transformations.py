"""One is one of many (vmap; the functions are compiled already), and memory stays bounded."""

import chex
import jax
import jax.numpy as jnp
import pytest

from pfn_optax.dynamics import value_and_grad_long

METHODS = {
    "backprop": {},
    "shadowing": {"num_unstable": 1},
    "shadowing_unstable": {"num_unstable": 1, "window": 2},
    "kernel": {"noise": 0.1, "window": 2, "num_replicas": 2},
    "path_kernel": {"noise": 0.1, "window": 2, "alpha": 0.5, "num_replicas": 2},
}


def step(params, state):
    x, y = state["x"], state["y"]
    return {"x": 1 - params["a"] * x**2 + y, "y": params["b"] * x}


def objective(params, state):
    return state["x"] + params["b"] * state["y"]


@pytest.mark.parametrize("method", METHODS)
def test_single_is_vmap(method):
    """On the Henon map."""
    run = value_and_grad_long(
        step, objective, method=method, num_steps=12, segment_steps=3, **METHODS[method]
    )
    params = {"a": jnp.array([1.4, 1.3]), "b": jnp.array([0.3, 0.2])}
    state = {"x": jnp.array([0.1, 0.3]), "y": jnp.zeros(2)}
    keys = jax.random.split(jax.random.key(0), 2)
    mapped = jax.vmap(lambda p, s, k: run(p, s, key=k))(params, state, keys)
    params_1, state_1 = jax.tree.map(lambda leaf: leaf[1], (params, state))
    one = jax.tree.map(lambda leaf: leaf[1], mapped)
    single = run(params_1, state_1, key=keys[1])
    chex.assert_trees_all_close(one, single, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_equal_shapes_and_dtypes(single.gradient, params_1)
    chex.assert_trees_all_equal_shapes_and_dtypes(single.state, state_1)


def largest_array(jaxpr):
    sizes = [var.aval.size for eqn in jaxpr.eqns for var in eqn.outvars]
    for eqn in jaxpr.eqns:
        for value in eqn.params.values():
            for inner in value if isinstance(value, (tuple, list)) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    sizes.append(largest_array(inner))
    return max(sizes, default=0)


@pytest.mark.parametrize("method", METHODS)
def test_states_are_kept_at_the_starts_of_segments_only(method):
    """10,000 states of 50 entries; of numbers, one per step and replica are kept."""
    run = value_and_grad_long(
        lambda params, x: jnp.tanh(params * x),
        lambda params, x: jnp.mean(x),
        method=method,
        num_steps=10_000,
        segment_steps=100,
        **METHODS[method],
    )
    jaxpr = jax.make_jaxpr(run)(1.0, jnp.ones(50), key=jax.random.key(0))
    assert largest_array(jaxpr.jaxpr) <= 2 * 10_001


def test_memory_grows_like_the_root():
    def temporary(num_steps):
        run = value_and_grad_long(
            lambda params, x: jnp.tanh(params * x), lambda params, x: x[0], num_steps=num_steps
        )
        memory = run.lower(1.0, jnp.ones(1000)).compile().memory_analysis()
        return memory.temp_size_in_bytes

    short, long = temporary(900), temporary(90_000)
    assert long < 20 * short
    assert long < 0.05 * 90_000 * 1000 * 4


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("method", ["backprop", "kernel", "path_kernel"])
def test_strict_promotion(method):
    run = value_and_grad_long(
        step, objective, method=method, num_steps=12, num_transient=2, **METHODS[method]
    )
    params = {"a": jnp.float32(1.4), "b": jnp.float32(0.3)}
    state = {"x": jnp.float32(0.1), "y": jnp.float32(0)}
    jax.make_jaxpr(run)(params, state, key=jax.random.key(0))


def test_half_precision_parameters_keep_their_dtype():
    found = value_and_grad_long(
        lambda params, x: jnp.tanh(params.astype(x.dtype) * x),
        lambda params, x: jnp.mean(x),
        num_steps=12,
    )(jnp.bfloat16(2), jnp.ones(3))
    assert found.gradient.dtype == found.standard_error.dtype == jnp.bfloat16
