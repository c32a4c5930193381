"""What optax asks of every transformation, for both forms and every option."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfn_optax import FlowGraph, PFNState, pfn, with_pfn
from tests.trees import TREES, dense

pytestmark = pytest.mark.usefixtures("unoptimized")

PARAMS = dense(0, 4, 20, 20, 3)
GRADS = jax.tree.map(lambda x: x + 0.1, PARAMS)

OPTIONS = {
    "default": {},
    "block_size": {"block_size": 3},
    "num_blocks": {"num_blocks": 2},
    "output_axis": {"output_axis": 0},
    **{
        name: {"capacity": name}
        for name in (
            "rank",
            "norm",
            "energy",
            "sensitivity",
            "jacobian_rank",
            "relative",
            "global_rank",
        )
    },
    "callable": {"capacity": lambda known, layout: known.gradient_norms + 1},
    "graph": {"graph": FlowGraph.chain(["Dense_2", "Dense_0", "Dense_1"])},
    "ema_window": {"ema_window": 2},
    "renormalize": {"renormalize": True},
    "sink": {"side": "sink"},
    "warm_start": {"warm_start": True},
    "beta": {"beta": 0.5, "gamma": 0.0, "max_persistence": 3, "ema_decay": 0.0},
}

FORMS = {
    "pfn": lambda **options: optax.chain(pfn(**{"every": 3, **options}), optax.sgd(0.1)),
    "with_pfn": lambda **options: with_pfn(optax.adam(0.1), **{"every": 3, **options}),
}


every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def assert_same_structure(left, right):
    chex.assert_trees_all_equal_structs(left, right)
    chex.assert_trees_all_equal_shapes_and_dtypes(left, right)
    for leaf in jax.tree.leaves((left, right)):
        assert not getattr(leaf, "weak_type", False)


def train(optimizer, grads, params, steps=4, **extra_args):
    """Eager on purpose: what PFN compiles is shared between the tests."""
    state = optimizer.init(params)
    for _ in range(steps):
        updates, state = optimizer.update(grads, state, params, **extra_args)
        params = optax.apply_updates(params, updates)
    return params, state


def jitted(optimizer):
    """For wrappers that would compile their own `lax.cond` at every eager step."""
    return optax.GradientTransformation(optimizer.init, jax.jit(optimizer.update))


@every_form
@every_option
def test_every_option_keeps_the_state_and_scan_is_eager(form, options):
    optimizer = form(**options)
    init = (PARAMS, optimizer.init(PARAMS))

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(GRADS, state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, PARAMS)
        return (optax.apply_updates(params, updates), state), None

    scanned = jax.lax.scan(step, init, length=4)[0]
    assert_same_structure(init, scanned)
    chex.assert_tree_all_finite(scanned)
    assert optax.tree.get(scanned[1], "pfn_diagnoses") == 1
    eager = train(optimizer, GRADS, PARAMS, value=jnp.float32(0), unknown="ignored")
    chex.assert_trees_all_close(scanned, eager, rtol=1e-5, atol=1e-6)


@every_form
def test_no_recompilation(form):
    optimizer, traces = form(), []

    @jax.jit
    def update(grads, state, params):
        traces.append(1)
        return optimizer.update(grads, state, params)

    state = optimizer.init(PARAMS)
    for _ in range(3):
        _, state = update(GRADS, state, PARAMS)
    assert len(traces) == 1


@every_form
def test_vmap_over_seeds_gives_each_its_own_cut(form):
    optimizer = form(capacity="norm", every=2)
    scales = jnp.array([[1.0, 9, 9], [9, 1, 9], [9, 9, 1]])
    batch = jax.vmap(
        lambda scale: {
            name: jax.tree.map(lambda x, i=i: x * scale[i], leaves)
            for i, (name, leaves) in enumerate(GRADS.items())
        }
    )(scales)

    def run(grads):
        return train(optimizer, grads, PARAMS)

    batched = jax.vmap(run)(batch)
    cuts = optax.tree.get(batched[1], "pfn_cut")
    assert len({tuple(cut) for cut in np.asarray(cuts).tolist()}) > 1
    for i in range(3):
        own, single = (
            jax.tree.map(lambda x, i=i: x[i], batched),
            run(jax.tree.map(lambda x, i=i: x[i], batch)),
        )
        chex.assert_trees_all_close(own, single, rtol=1e-5, atol=1e-6)


def test_under_vmap_nothing_is_diagnosed_between_diagnoses():
    runs = []

    def capacity(known, layout):
        jax.debug.callback(lambda norm: runs.append(norm), known.gradient_norms[0])
        return known.gradient_norms

    optimizer = pfn(capacity=capacity, every=3)
    batch = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), GRADS)
    state = jax.vmap(optimizer.init)(batch)
    update = jax.jit(jax.vmap(lambda grads, state: optimizer.update(grads, state, PARAMS)))
    for _ in range(7):
        _, state = update(batch, state)
    jax.effects_barrier()
    assert len(runs) == 2 * 2  # two diagnoses of two models


def test_under_vmap_ranks_are_computed_in_the_diagnosis_alone():
    """XLA moves work out of a loop if nothing in the loop's carry goes into it."""
    optimizer = pfn(capacity="jacobian_rank", every=3)
    batch = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), PARAMS)
    update = jax.jit(jax.vmap(optimizer.update))
    text = update.lower(batch, jax.vmap(optimizer.init)(batch), batch).compile().as_text()
    assert " dot(" in text
    assert " dot(" not in text[text.index("\nENTRY ") :]


@every_form
def test_gradients_go_through_a_step(form):
    """Meta-gradients: the multipliers are piecewise constant, so they are those of a scaling."""
    optimizer = form(every=1)

    def entry(scale):
        params = jax.tree.map(lambda x: x * scale, PARAMS)
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        return updates["Dense_1"]["kernel"][0, 0]

    at, step = jnp.float32(1.0), 1e-2
    expected = (entry(at + step) - entry(at - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(entry)(at), expected, rtol=1e-2, atol=1e-4)


@every_form
@pytest.mark.parametrize("name", TREES)
def test_any_tree(form, name):
    params = TREES[name]()
    new_params, state = train(form(), params, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_params, params)
    chex.assert_tree_all_finite(new_params)
    assert optax.tree.get(state, "pfn_step") == 4


@every_form
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
def test_dtypes_of_the_updates_are_kept(form, dtype):
    params = jax.tree.map(lambda x: x.astype(dtype), PARAMS)
    optimizer = form(every=1)
    updates, state = optimizer.update(params, optimizer.init(params), params)
    chex.assert_trees_all_equal_dtypes(updates, params)
    assert optax.tree.get(state, "pfn_norms").dtype == jnp.float32


def test_no_implicit_promotion(strict):
    optimizer = pfn(every=1, renormalize=True, capacity="sensitivity")
    params = {**PARAMS, "half": {"kernel": jnp.ones((3, 3), jnp.bfloat16)}}
    optimizer.update(params, optimizer.init(params), params)


@every_form
def test_float64(form, x64):
    params = jax.tree.map(lambda x: x.astype(jnp.float64), PARAMS)
    optimizer = form(every=1, renormalize=True)
    before = optimizer.init(params)
    updates, after = optimizer.update(params, before, params)
    assert_same_structure(before, after)
    chex.assert_trees_all_equal_dtypes(updates, params)
    assert optax.tree.get(after, "pfn_norms").dtype == jnp.float32


@every_form
def test_init_of_abstract_and_odd_leaves(form):
    abstract = jax.eval_shape(lambda: PARAMS)
    assert_same_structure(
        jax.eval_shape(form().init, abstract), jax.eval_shape(form().init, PARAMS)
    )
    assert_same_structure(pfn().init(abstract), pfn().init(PARAMS))
    odd = {"a": None, "b": optax.MaskedNode(), "c": jnp.ones((2, 2)), "d": jnp.float32(1)}
    train(form(), odd, odd)


@every_form
def test_read_by_name_anywhere(form):
    optimizer = optax.chain(optax.clip(1.0), optax.named_chain(("inner", form())), optax.scale(2.0))
    _, state = train(optimizer, GRADS, PARAMS)
    for name in PFNState._fields:
        assert optax.tree.get(state, name) is not None, name
    changed = optax.tree.set(state, pfn_step=jnp.int32(7))
    assert optax.tree.get(changed, "pfn_step") == 7


@every_form
def test_masked(form):
    mask = {name: name != "Dense_1" for name in PARAMS}
    params, state = train(optax.masked(form(every=1), mask), GRADS, PARAMS, steps=1)
    assert len(optax.tree.get(state, "pfn_norms")) == 3
    chex.assert_trees_all_close(
        params["Dense_1"], jax.tree.map(jnp.add, PARAMS["Dense_1"], GRADS["Dense_1"])
    )


@every_form
def test_partition(form):
    labels = {name: "pfn" if name != "Dense_0" else "plain" for name in PARAMS}
    optimizer = optax.partition({"pfn": form(), "plain": optax.sgd(0.1)}, labels)
    _, state = train(optimizer, GRADS, PARAMS)
    assert len(optax.tree.get(state, "pfn_norms")) == 3


@every_form
def test_multi_steps(form):
    optimizer = optax.MultiSteps(form(every=1), every_k_schedule=2)
    params, state = train(jitted(optimizer), GRADS, PARAMS)
    assert optax.tree.get(state, "pfn_step") == 2
    expected, _ = train(form(every=1), GRADS, PARAMS, steps=2)
    chex.assert_trees_all_close(params, expected, rtol=1e-5, atol=1e-6)


@every_form
def test_apply_if_finite(form):
    optimizer = jitted(optax.apply_if_finite(form(every=1), max_consecutive_errors=5))
    state = optimizer.init(PARAMS)
    _, state = optimizer.update(GRADS, state, PARAMS)
    nan = jax.tree.map(lambda x: x * jnp.nan, GRADS)
    updates, after = optimizer.update(nan, state, PARAMS)
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, PARAMS))
    chex.assert_trees_all_equal(after.inner_state, state.inner_state)


def test_inject_hyperparams():
    schedule = optax.linear_schedule(0.0, 2.0, 2)
    optimizer = optax.inject_hyperparams(pfn)(beta=schedule, every=1, capacity="norm", gamma=0.0)
    state = optimizer.init(PARAMS)
    seen = []
    for _ in range(3):
        _, state = optimizer.update(GRADS, state, PARAMS)
        seen.append(float(optax.tree.get(state, "pfn_multipliers").max()))
    np.testing.assert_allclose(seen, [1, 2, 3], rtol=1e-6)
    fixed = optax.inject_hyperparams(pfn, static_args="block_size")(block_size=4)
    assert len(optax.tree.get(fixed.init(PARAMS), "pfn_norms")) == 11
    wrapped = optax.inject_hyperparams(with_pfn)(optimizer=optax.sgd(0.1), beta=1.0)
    wrapped.update(GRADS, wrapped.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="list it in `static_args`"):
        optax.inject_hyperparams(pfn)(block_size=4).init(PARAMS)


@every_form
@pytest.mark.parametrize("options", [{}, {"graph": FlowGraph.chain(["Dense_0", "Dense_2"])}])
def test_map_params(form, options):
    optimizer = form(**options)
    _, state = train(optimizer, GRADS, PARAMS)
    doubled = optax.tree.map_params(optimizer, lambda x: 2 * x, state)
    for name in PFNState._fields:  # these are not parameter-like
        chex.assert_trees_all_equal(optax.tree.get(doubled, name), optax.tree.get(state, name))


@every_form
def test_orbax_round_trip(form, tmp_path):
    import orbax.checkpoint as ocp

    optimizer = form()
    _, state = train(optimizer, GRADS, PARAMS)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(optimizer.init, PARAMS))
    chex.assert_trees_all_equal(restored, state)


@every_form
@pytest.mark.parametrize("problem", ["parabola", "rosenbrock"])
def test_converges(form, problem):
    """30,000 steps to the minimum, as optax's own optimizers must."""
    if problem == "parabola":
        start, minimum = jnp.array([-1.0, 10.0, 1.0]), jnp.array([1.0, -1.0, 1.0])

        def loss(x):
            return jnp.sum(jnp.square(x - minimum))

    else:
        start, minimum = jnp.array([-0.5, 1.5]), jnp.ones(2)

        def loss(x):
            return 100 * jnp.square(x[1] - x[0] ** 2) + jnp.square(1 - x[0])

    options = {"every": 50, "ema_decay": 0.9}
    if form is FORMS["pfn"]:
        rate = 1e-2 if problem == "parabola" else 2e-4
        optimizer = optax.chain(pfn(**options), optax.sgd(rate))
    else:
        optimizer = with_pfn(optax.adam(1e-3), **options)

    def step(carry, _):
        x, state = carry
        updates, state = optimizer.update(jax.grad(loss)(x), state, x)
        return (optax.apply_updates(x, updates), state), None

    (found, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=30_000)
    np.testing.assert_allclose(found, minimum, atol=1e-2)


def test_nnx_optimizer():
    from flax import nnx

    model = nnx.Sequential(nnx.Linear(4, 20, rngs=nnx.Rngs(0)), nnx.Linear(20, 2, rngs=nnx.Rngs(1)))
    optimizer = nnx.Optimizer(model, optax.chain(pfn(every=1), optax.adamw(0.1)), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda m: jnp.square(m(jnp.ones((3, 4)))).sum())(model)
        optimizer.update(model, grads)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(3)]
    assert losses[-1] < losses[0]
    assert optax.tree.get(optimizer.opt_state, "pfn_step")[...] == 3
    assert np.asarray(optax.tree.get(optimizer.opt_state, "pfn_cut")[...]).any()


def test_linen_train_state():
    from flax import linen as nn
    from flax.training.train_state import TrainState

    net = nn.Sequential([nn.Dense(20), nn.relu, nn.Dense(2)])
    x = jnp.ones((3, 4))
    state = TrainState.create(
        apply_fn=net.apply,
        params=net.init(jax.random.key(0), x)["params"],
        tx=optax.chain(pfn(every=1), optax.adamw(0.1)),
    )

    @jax.jit
    def step(state):
        grads = jax.grad(lambda p: jnp.square(state.apply_fn({"params": p}, x)).sum())(state.params)
        return state.apply_gradients(grads=grads)

    for _ in range(3):
        state = step(state)
    assert optax.tree.get(state.opt_state, "pfn_diagnoses") == 3
