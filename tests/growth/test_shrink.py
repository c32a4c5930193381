"""Shrinking undoes growth, and keeps the loss within bounds otherwise."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings

from pfn_optax.growth import grow, shrink, state_kinds, widths
from pfn_optax.precision import double_precision
from pfn_optax.units import copy_units, unit_spec
from tests.growth.networks import (
    SPEC,
    X,
    Y,
    assert_close,
    gradient,
    predict,
    split,
    state_after,
    trajectory,
    weights,
)

pytestmark = pytest.mark.usefixtures("unoptimized", "x64")


@settings(max_examples=15)
@given(
    st.integers(0, 1000),
    st.sampled_from([{"first": 1}, {"second": 3}, {"first": 6, "second": 1}]),
    st.sampled_from(["split", "fresh"]),
    st.sampled_from([0.0, 0.1, 0.9]),
)
def test_growing_and_shrinking_is_nothing(seed, added, how, spread):
    params = weights(seed)
    wide = grow(params, SPEC, added, how=how, spread=spread, key=jax.random.key(seed))
    small = shrink(wide.params, wide.spec, added)
    assert small.spec == SPEC
    assert small.is_accepted
    assert_close(small.params, params, 1e-12)


@pytest.fixture(scope="module")
def steps():
    with double_precision():
        return trajectory(wide=False)


OPTIMIZERS = {
    "momentum": lambda: optax.sgd(0.1, momentum=0.9),
    "adamw": lambda: optax.adamw(0.1),
    "adamax": lambda: optax.adamax(0.1),
    "averages of squared updates": lambda: optax.adadelta(0.1, eps=1e-20),
    "an average of updates": lambda: optax.chain(optax.adam(0.1), optax.ema(0.9)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_comes_back_too(name, steps):
    optimizer, params = OPTIMIZERS[name](), steps[-1][0]
    state = state_after(optimizer, steps)
    options = {"optimizer": optimizer, "kinds": state_kinds(optimizer, params)}
    fresh = {"how": "fresh", "key": jax.random.key(0)}
    for wide, added in (
        (split(params, optimizer_state=state, **options), {"first": 3, "second": 1}),
        (grow(params, SPEC, "first", 2, optimizer_state=state, **fresh, **options), {"first": 2}),
    ):
        state_of_wide = {"optimizer_state": wide.optimizer_state}
        small = shrink(wide.params, wide.spec, added, **state_of_wide, **options)
        assert_close(small.optimizer_state, state, 1e-10)


def test_copies_that_are_read_with_opposite_signs(steps):
    """Their gradients point opposite ways: the roots of second moments are subtracted."""
    params = steps[-1][0]
    optimizer = optax.adam(0.1)
    copies = {"first": [0, 1, 2, 3, 1]}, {"first": np.asarray([1, 1.5, 1, 1, -0.5])}
    wide = [copy_units(SPEC, each, *copies)[0] for each, _ in steps]
    state = state_after(optimizer, [(each, gradient(each)) for each in wide])
    spec = unit_spec(predict, wide[-1], X, check=False)
    small = shrink(wide[-1], spec, "first", 1, optimizer=optimizer, optimizer_state=state)
    assert_close(small.params, params, 1e-12)
    assert_close(small.optimizer_state, state_after(optimizer, steps), 1e-10)


def relu(params, x):
    return jax.nn.relu(x @ params["in"]) @ params["out"]


def test_parallel_units_are_multiples_of_each_other():
    """ReLUs of different sizes: exact without data, and the momentum of what stays is right."""
    draw = np.random.default_rng(0)
    small = {"in": draw.normal(size=(3, 2)), "out": draw.normal(size=(2, 2))}
    ratios = np.asarray([1, 1, 0.5])
    wide = {
        "in": small["in"][:, [0, 1, 0]] * ratios,
        "out": small["out"][[0, 1, 0]] * np.asarray([0.5, 1, 1.0])[:, None],
    }
    spec = unit_spec(relu, wide, X)
    optimizer = optax.sgd(0.1, momentum=0.9)

    def slope(params):
        return jax.grad(lambda params: jnp.sum(jnp.square(relu(params, X) - Y)))(params)

    _, state = optimizer.update(slope(wide), optimizer.init(wide), wide)
    found = shrink(wide, spec, "in", 1, optimizer=optimizer, optimizer_state=state)
    np.testing.assert_allclose(relu(found.params, X), relu(wide, X), rtol=1e-11)
    _, expected = optimizer.update(slope(found.params), optimizer.init(small), small)
    assert_close(found.optimizer_state, expected, 1e-10)
    assert found.members == {"in": ((0, 2), (1,))}


def squared(outputs, x, y):
    return jnp.mean(jnp.square(outputs - y))


def labelled(params, x, y):
    return predict(params, x)


def test_the_loss_is_bounded():
    params = weights(0)
    wide, spec, *_ = grow(params, SPEC, {"first": 4}, key=jax.random.key(0))
    draw = np.random.default_rng(3)
    wide = jax.tree.map(lambda leaf: leaf + 0.02 * draw.normal(size=leaf.shape), wide)
    options = {"function": labelled, "batches": [(X, Y)], "loss": squared}
    free = shrink(wide, spec, "first", 6, **options)
    assert free.is_accepted
    assert widths(free.spec)["first"] == 2
    change = squared(predict(free.params, X), X, Y) - squared(predict(wide, X), X, Y)
    assert free.loss_change == pytest.approx(float(change), abs=1e-9)
    optimizer = optax.adam(0.1)
    state = optimizer.init(wide)
    assert abs(free.loss_change) > 1e-6
    for slack, is_accepted in ((-1e-9, False), (1e-9, True)):
        bounded = shrink(
            wide,
            spec,
            "first",
            6,
            **options,
            max_loss_increase=free.loss_change + slack,
            optimizer=optimizer,
            optimizer_state=state,
        )
        assert bounded.is_accepted == is_accepted
        assert bounded.loss_change == free.loss_change
        if not is_accepted:
            assert bounded.params is wide
            assert bounded.spec is spec
            assert bounded.optimizer_state is state
    # A refit is nearer than what is alike at first sight.
    near = shrink(wide, spec, "first", 4, **options)
    assert abs(near.loss_change) < 0.1


def test_batch_statistics_go_along():
    def network(tree, x):
        params, stats = tree
        return jax.nn.relu(x @ params["in"] - stats["mean"]) @ params["out"]

    draw = np.random.default_rng(0)
    params = {"in": draw.normal(size=(3, 4)), "out": draw.normal(size=(4, 2))}
    stats = {"mean": draw.normal(size=4)}
    spec = unit_spec(network, (params, stats), X)
    [group] = spec.groups
    wide = grow(params, spec, group.name, 2, batch_stats=stats, key=jax.random.key(0))
    small = shrink(
        wide.params,
        wide.spec,
        group.name,
        2,
        batch_stats=wide.batch_stats,
        function=network,
        batches=[(X,)],
        loss=lambda outputs, x: jnp.mean(outputs),
        max_loss_increase=1e-9,
    )
    assert small.is_accepted
    assert_close((small.params, small.batch_stats), (params, stats), 1e-12)


BATCHES = {"function": labelled, "batches": [(X, Y)]}


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("first", 4), {}, "4 units, of which at least one must stay, got 4 to remove"),
        (("first", 0), {}, "num_units must be an integer of at least 1"),
        (("first", 1), {}, "not homogeneous .* give function and batches"),
        (("first", 1), {"function": labelled}, "function and batches together"),
        (("first", 1), {"loss": squared}, "give function and batches with it"),
        (("first", 1), {**BATCHES, "max_loss_increase": 0.1}, "batches and loss with it"),
        (("first", 1), {**BATCHES, "ridge": 0}, "ridge must be positive"),
        (("head", 1), {}, "no group 'head'"),
    ],
)
def test_bad_arguments(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        shrink(weights(0), SPEC, *arguments, **options)
