"""The state of an optimizer follows as if the wide network had been trained all along."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfn_optax import pfn, unit_graph, with_pfn
from pfn_optax.align import with_alignment
from pfn_optax.growth import Kind, grow, state_kinds
from pfn_optax.precision import double_precision
from tests.growth.networks import (
    SPEC,
    X,
    assert_close,
    gradient,
    loss,
    predict,
    split,
    state_after,
    trajectory,
    weights,
)

pytestmark = pytest.mark.usefixtures("unoptimized", "x64")

# With the tolerance: what is divided by a second moment depends a little on the epsilon, and
# MultiSteps averages in float32.
OPTIMIZERS = {
    "momentum": (lambda: optax.sgd(0.1, momentum=0.9, nesterov=True), 1e-10),
    "adamw": (lambda: optax.adamw(0.1, weight_decay=0.1), 1e-10),
    "adamax": (lambda: optax.adamax(0.1), 1e-7),
    "adagrad, which does not start at zero": (lambda: optax.adagrad(0.1), 1e-10),
    "adan, with differences of gradients": (lambda: optax.adan(0.1), 1e-10),
    "an average of updates": (lambda: optax.chain(optax.adam(0.1), optax.ema(0.9)), 1e-5),
    "clipped, not by much": (
        lambda: optax.chain(optax.clip_by_global_norm(1e3), optax.adam(0.1)),
        1e-10,
    ),
    "in the middle of a cycle": (
        lambda: optax.MultiSteps(optax.adam(0.1), 3).gradient_transformation(),
        1e-6,
    ),
    "partitioned": (
        lambda: optax.partition(
            {"fast": optax.adam(0.1), "slow": optax.sgd(0.1, momentum=0.5)},
            lambda p: jax.tree.map(lambda leaf: "fast" if leaf.ndim > 1 else "slow", p),
        ),
        1e-10,
    ),
    "with a memory of steps": (
        lambda: optax.chain(optax.scale_by_lbfgs(3), optax.scale(-0.1)),
        1e-10,
    ),
}


@pytest.fixture(scope="module")
def steps():
    """Parameters and gradients of the narrow and of the wide network."""
    with double_precision():
        return trajectory(wide=False), trajectory(wide=True)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_is_that_of_the_embedded_trajectory(name, steps):
    """The oracle is the optimizer itself, given the wide parameters and gradients at each step."""
    make, tolerance = OPTIMIZERS[name]
    narrow, wide = steps
    optimizer = make()
    params = narrow[-1][0]
    grown = split(params, optimizer=optimizer, optimizer_state=state_after(optimizer, narrow))
    assert_close(grown.optimizer_state, state_after(optimizer, wide), tolerance)
    update = optax.with_extra_args_support(optimizer).update
    update(gradient(grown.params), grown.optimizer_state, grown.params)


def test_factored_second_moments():
    """Of gradients that are outer products, their factors are exact."""
    draw = np.random.default_rng(0)
    vectors = [(draw.normal(size=6), draw.normal(size=5)) for _ in range(3)]
    params = {"in": draw.normal(size=(6, 5)), "out": draw.normal(size=(5, 2))}
    spec = grow_spec(params)
    optimizer = optax.scale_by_factored_rms(min_dim_size_to_factor=4)
    state, wide_state = optimizer.init(params), None
    key = {"key": jax.random.key(0), "spread": 0.5, "units": [1, 1]}
    wide = grow(params, spec, "in", 2, **key).params
    wide_state = optimizer.init(wide)
    shares = np.asarray(wide["out"])[:, 0] / np.asarray(params["out"])[[0, 1, 2, 3, 4, 1, 1], 0]
    for left, right in vectors[:1] * 3:
        slope = {"in": np.outer(left, right), "out": np.ones((5, 2))}
        _, state = optimizer.update(slope, state, params)
        wide_right = right[[0, 1, 2, 3, 4, 1, 1]] * shares
        slope = {"in": np.outer(left, wide_right), "out": np.ones((7, 2))}
        _, wide_state = optimizer.update(slope, wide_state, wide)
    grown = grow(params, spec, "in", 2, **key, optimizer=optimizer, optimizer_state=state)
    assert state.v_row["in"].shape == (5,)
    assert grown.optimizer_state.v_row["in"].shape == (6,)  # now the other axis is the longer one
    assert_close(grown.optimizer_state, wide_state, 1e-10)
    # From whole to factored: only now both axes are long enough.
    optimizer = optax.scale_by_factored_rms(min_dim_size_to_factor=6)
    state = optimizer.init(params)._replace(v={"in": np.ones((6, 5)), "out": np.ones((5, 2))})
    assert state.v_row["in"].shape == (1,)
    moved = grow(params, spec, "in", 2, **key, optimizer=optimizer, optimizer_state=state)
    assert moved.optimizer_state.v["in"].shape == (1,)
    row, column = moved.optimizer_state.v_row["in"], moved.optimizer_state.v_col["in"]
    np.testing.assert_allclose(row, np.full(6, np.mean(shares**2)))
    np.testing.assert_allclose(column, shares**2)


def grow_spec(params):
    from pfn_optax.units import unit_spec

    def network(params, x):
        return jnp.tanh(x @ params["in"]) @ params["out"]

    return unit_spec(network, params, np.ones((1, params["in"].shape[0])), check=False)


def test_copies_of_the_parameters(steps):
    """Slow weights and averages define functions of their own, which stay as they are."""
    narrow, _ = steps
    params = narrow[0][0]
    other = jax.tree.map(jnp.asarray, weights(9))
    pair = optax.LookaheadParams(params, other)
    optimizer = optax.lookahead(optax.adam(0.1), 5, 0.5)
    state = optimizer.init(pair)
    _, state = optimizer.update(gradient(params), state, pair)
    grown = split(pair, optimizer=optimizer, optimizer_state=state)
    np.testing.assert_allclose(predict(grown.params.slow, X), predict(other, X), rtol=1e-11)
    assert grown.optimizer_state.steps_since_sync == state.steps_since_sync
    optimizer.update(gradient(grown.params.fast), grown.optimizer_state, grown.params)

    optimizer = optax.contrib.schedule_free_adamw(0.1)
    state = optimizer.init(params)
    for _ in range(2):
        updates, state = optimizer.update(gradient(params), state, params)
        params = optax.apply_updates(params, updates)
    grown = split(params, optimizer=optimizer, optimizer_state=state)
    average = optax.contrib.schedule_free_eval_params(state, params)
    wide = optax.contrib.schedule_free_eval_params(grown.optimizer_state, grown.params)
    np.testing.assert_allclose(predict(wide, X), predict(average, X), rtol=1e-8)


def test_fresh_units_have_no_momentum_and_usual_second_moments(steps):
    narrow, _ = steps
    params = narrow[-1][0]
    optimizer = optax.adam(0.1)
    state = state_after(optimizer, narrow)
    options = {"optimizer": optimizer, "optimizer_state": state, "how": "fresh"}
    grown = grow(params, SPEC, "first", 2, key=jax.random.key(0), **options).optimizer_state[0]
    assert grown.count == state[0].count
    assert_close(grown.mu["first"]["w"][:, :4], state[0].mu["first"]["w"], 0)
    assert not grown.mu["first"]["w"][:, 4:].any()
    assert not grown.mu["second"]["w"][4:].any()
    for leaf, axis in (("first", 1), ("second", 0)):
        mean = jnp.mean(state[0].nu[leaf]["w"], axis, keepdims=True)
        new = jnp.split(grown.nu[leaf]["w"], [4], axis)[1]
        np.testing.assert_allclose(new, jnp.broadcast_to(mean, new.shape))
    # An average of the parameters has the same fresh units as they have.
    optimizer = optax.contrib.schedule_free_sgd(0.1)
    options = {"optimizer": optimizer, "optimizer_state": optimizer.init(params), "how": "fresh"}
    wide = grow(params, SPEC, "first", 2, key=jax.random.key(0), **options)
    assert_close(wide.optimizer_state.z, wide.params, 0)
    # Past steps did not move them.
    optimizer = optax.scale_by_lbfgs(2)
    options = {"optimizer": optimizer, "optimizer_state": state_after(optimizer, narrow)}
    wide = grow(params, SPEC, "first", 2, how="fresh", key=jax.random.key(0), **options)
    for memory in ("diff_params_memory", "diff_updates_memory"):
        steps = optax.tree.get(wide.optimizer_state, memory)
        assert steps["first"]["b"].shape == (2, 6)
        assert not steps["first"]["b"][:, 4:].any()
    assert_close(optax.tree.get(wide.optimizer_state, "params")["first"], wide.params["first"])


def test_blocks_start_anew_and_their_counts_go_on(steps):
    narrow, _ = steps
    params = narrow[-1][0]
    optimizer = optax.chain(pfn(every=2, block_size=4), optax.trace(0.9))
    state = state_after(optimizer, narrow)
    options = {"kinds": {"trace": Kind("gradients")}}
    new = split(params, optimizer=optimizer, optimizer_state=state, **options).optimizer_state[0]
    assert (new.pfn_step, new.pfn_diagnoses) == (5, 2)
    assert new.pfn_measured == 0
    assert new.pfn_norms.shape > state[0].pfn_norms.shape
    assert not new.pfn_norms.any()
    # As many blocks as before: nothing starts anew.
    optimizer = optax.chain(pfn(every=2, block_size=8), optax.trace(0.9))
    state = optimizer.init(params)
    state = (state[0]._replace(pfn_norms=state[0].pfn_norms + 7), state[1])
    new = split(params, optimizer=optimizer, optimizer_state=state, **options).optimizer_state[0]
    assert_close(new, state[0], 0)


def test_optimizers_that_hold_sizes_are_built_anew(steps):
    params = steps[0][-1][0]

    def make(params, spec):
        return with_pfn(optax.sgd(0.1), graph=unit_graph(loss, params, block_size=2))

    optimizer = make(params, SPEC)
    options = {"optimizer": optimizer, "optimizer_state": optimizer.init(params)}
    with pytest.raises(ValueError, match=r"build it anew .* rebuild_optimizer=.* blocks were made"):
        split(params, **options)
    grown = split(params, **options, rebuild_optimizer=make)
    assert grown.optimizer_state.pfn_state.pfn_norms.shape == (14,)
    optimizer = with_alignment(optax.sgd(0.1), params, SPEC)
    options = {"optimizer": optimizer, "optimizer_state": optimizer.init(params)}
    with pytest.raises(ValueError, match="rebuild_optimizer="):
        split(params, **options)


def test_arguments_of_update():
    params = jax.tree.map(jnp.asarray, weights(0))
    optimizer = optax.chain(optax.adam(0.1), optax.contrib.reduce_on_plateau())
    kinds = state_kinds(optimizer, params, extra_args={"value": 0.0})
    assert kinds["0/0/nu/head"] == Kind("gradients", 2.0, is_odd=False)
    # Without them names help, where they are known.
    state = optimizer.init(params)
    grown = split(params, optimizer=optimizer, optimizer_state=state)
    assert grown.optimizer_state[0][0].nu["head"].shape == (4, 2)


def test_leaves_that_are_not_known_are_named(steps):
    narrow, _ = steps
    params = narrow[-1][0]
    optimizer = optax.contrib.cocob()
    options = {"optimizer": optimizer, "optimizer_state": state_after(optimizer, narrow)}
    with pytest.raises(ValueError, match=r"what \d/reward/first/b of .* as kinds={\"reward\": K"):
        split(params, **options)
    given = Kind("gradients", 1.0, is_odd=False)
    names = ("reward", "subgradients_norm", "scale", "sum_grads", "sum_abs_grads")
    grown = split(params, **options, kinds=dict.fromkeys(names, given))
    assert optax.tree.get(grown.optimizer_state, "reward")["head"].shape == (4, 2)


def test_states_that_cannot_follow():
    params = jax.tree.map(jnp.asarray, weights(0))
    with pytest.raises(ValueError, match="is not a state of the optimizer"):
        split(params, optimizer=optax.adam(0.1), optimizer_state=optax.sgd(0.1).init(params))
    optimizer = optax.flatten(optax.trace(0.9))
    with pytest.raises(ValueError, match="leaves of the optimizer's state lie like"):
        split(params, optimizer=optimizer, optimizer_state=optimizer.init(params))
    optimizer = optax.sm3(0.1)
    with pytest.raises(ValueError, match=r"0/mu/first/b/0 of .* not that of one parameter"):
        split(params, optimizer=optimizer, optimizer_state=optimizer.init(params))
