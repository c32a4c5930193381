"""Training with alignment is training without it, in another order of the units."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfn_optax import with_pfn
from pfn_optax.align import (
    WithAlignmentState,
    align,
    distance,
    permute_state,
    with_alignment,
)
from pfn_optax.units import UnitSpec, unit_spec
from tests.align.networks import mlp, mlp_spec, random_permutations
from tests.units.test_models import with_statistics
from tests.zoo import SMALL

pytestmark = pytest.mark.usefixtures("unoptimized")

SIZES = (4, 9, 3)
SPEC = mlp_spec(SIZES)
REFERENCE, PARAMS = (mlp(SIZES, seed, np.float32) for seed in (0, 1))
INPUTS = np.random.default_rng(2).standard_normal((16, SIZES[0])).astype(np.float32)
OPTIMIZERS = {
    "momentum": lambda: optax.sgd(0.02, momentum=0.9, nesterov=True),
    "clipped, with a schedule": lambda: optax.chain(
        optax.clip_by_global_norm(0.5), optax.adamw(optax.cosine_decay_schedule(0.02, 30))
    ),
    "with an average": lambda: optax.chain(optax.adam(0.01), optax.ema(0.9)),
    "with a memory of steps": lambda: optax.chain(optax.scale_by_lbfgs(3), optax.scale(-0.02)),
    "masked": lambda: optax.chain(
        optax.masked(optax.trace(0.9), lambda p: jax.tree.map(lambda leaf: leaf.ndim > 1, p)),
        optax.sgd(0.02),
    ),
    "partitioned": lambda: optax.partition(
        {"fast": optax.adam(0.01), "slow": optax.sgd(0.01, momentum=0.5)},
        lambda p: jax.tree.map(lambda leaf: "fast" if leaf.ndim > 1 else "slow", p),
    ),
    "accumulating": lambda: optax.MultiSteps(optax.adam(0.01), 3).gradient_transformation(),
    "injected": lambda: optax.inject_hyperparams(optax.adam)(
        learning_rate=optax.linear_schedule(0.02, 0.0, 40)
    ),
}


def predict(params, x):
    x = jnp.tanh(x @ params["l0"]["w"] + params["l0"]["b"])
    return x @ params["l1"]["w"] + params["l1"]["b"]


def loss(params):
    return jnp.mean(jnp.square(predict(params, INPUTS) - jnp.sin(3 * INPUTS[:, :3])))


@functools.partial(jax.jit, static_argnums=(0, 2), static_argnames="loss")
def train(optimizer, params, steps, loss=loss):
    """The parameters and the state in the end, and the loss before each step."""

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    (params, state), losses = jax.lax.scan(step, (params, optimizer.init(params)), length=steps)
    return params, state, losses


def undone(state, spec, tree):
    """A tree in the order of a run without alignment."""
    cumulative = optax.tree.get(state, "alignment_permutations")
    return spec.permute(tree, {name: np.argsort(order) for name, order in cumulative.items()})


def assert_close(left, right, tolerance=1e-4):
    for x, y in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_goes_on_as_without(make):
    """The oracle is the run without: same losses, same parameters, same moments once undone."""
    inner = make()
    optimizer = with_alignment(inner, REFERENCE, SPEC, every=4)
    params, state, losses = train(optimizer, PARAMS, 30)
    plain, plain_state, plain_losses = train(inner, PARAMS, 30)
    np.testing.assert_allclose(losses, plain_losses, rtol=1e-4)
    assert_close(undone(state, SPEC, params), plain)
    inverse = {name: np.argsort(order) for name, order in state.alignment_permutations.items()}
    assert_close(permute_state(inner, state.inner_state, SPEC, inverse), plain_state)
    assert any((order != np.arange(len(order))).any() for order in inverse.values())
    assert state.alignment_step == 30
    assert state.alignment_matches == 7
    assert distance(REFERENCE, params) < 0.9 * distance(REFERENCE, plain)


def test_moments_that_do_not_follow_would_be_seen():
    """What the test above rests on: permuting the parameters alone changes the losses."""
    inner = optax.adam(0.01)
    params, state, _ = train(inner, PARAMS, 10)
    permutations = random_permutations(SPEC, 0)
    moved = SPEC.permute(params, permutations)
    grads = jax.grad(loss)(moved)
    followed = permute_state(inner, state, SPEC, permutations)
    expected = SPEC.permute(inner.update(jax.grad(loss)(params), state)[0], permutations)
    assert_close(inner.update(grads, followed)[0], expected, 1e-5)
    left_behind = inner.update(grads, state)[0]
    gap = jax.tree.map(lambda x, y: float(abs(x - y).max()), left_behind, expected)
    assert max(jax.tree.leaves(gap)) > 1e-3


@pytest.mark.slow
def test_batch_norm_with_its_running_averages():
    """One tree, the averages in it: they are moved by the updates, their gradients are zero."""
    case = SMALL["cnn"]()
    function, variables, args = with_statistics(case)
    spec = unit_spec(function, variables, *args)
    draw = np.random.default_rng(0)
    reference, params = (
        jax.tree.map(
            lambda leaf: np.abs(np.asarray(leaf) + 0.3 * draw.standard_normal(leaf.shape)).astype(
                np.float32
            ),
            variables,
        )
        for _ in range(2)
    )

    def energy(params):
        return jnp.mean(jnp.square(function(params, *args)))

    inner = optax.adam(1e-3)
    optimizer = with_alignment(inner, reference, spec, every=3)
    moved, state, losses = train(optimizer, params, 7, loss=energy)
    plain, _, plain_losses = train(inner, params, 7, loss=energy)
    np.testing.assert_allclose(losses, plain_losses, rtol=1e-4)
    assert_close(undone(state, spec, moved), plain)
    np.testing.assert_allclose(function(moved, *args), function(plain, *args), rtol=1e-3)
    assert any(
        (order != np.arange(len(order))).any() for order in state.alignment_permutations.values()
    )


def test_the_step_lands_where_the_matching_says():
    """The update is the way from here to there, exact up to two roundings; others are as given."""
    inner = optax.sgd(0.1)
    optimizer = with_alignment(inner, REFERENCE, SPEC, every=1)
    grads = jax.grad(loss)(PARAMS)
    plain, _ = inner.update(grads, inner.init(PARAMS), PARAMS)
    updates, state = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    new = optax.apply_updates(PARAMS, plain)
    target = SPEC.permute(new, state.alignment_move)
    landed = optax.apply_updates(PARAMS, updates)
    for own, there, start in zip(*map(jax.tree.leaves, (landed, target, PARAMS)), strict=True):
        size = np.maximum(abs(np.asarray(there)), abs(start))
        assert (abs(own - there) <= 2 * np.finfo(np.float32).eps * size).all()
    np.testing.assert_array_equal(updates["l1"]["b"], plain["l1"]["b"])
    np.testing.assert_allclose(state.alignment_objective, distance(REFERENCE, target), rtol=1e-5)
    np.testing.assert_allclose(state.alignment_before, distance(REFERENCE, new), rtol=1e-5)


def test_between_matchings_the_updates_are_the_optimizers_own():
    inner = optax.adam(0.1)
    optimizer = with_alignment(inner, REFERENCE, SPEC, every=2)
    grads = jax.grad(loss)(PARAMS)
    updates, state = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    chex.assert_trees_all_equal(updates, inner.update(grads, inner.init(PARAMS))[0])
    assert state.alignment_matches == 0
    for order in state.alignment_move.values():
        np.testing.assert_array_equal(order, np.arange(len(order)))
    # Where nothing is to be gained, they are so in a step that matches as well.
    settled = with_alignment(inner, PARAMS, SPEC, every=1)
    updates, state = settled.update(grads, settled.init(PARAMS), PARAMS)
    chex.assert_trees_all_equal(updates, inner.update(grads, inner.init(PARAMS))[0])
    assert state.alignment_matches == 1


def test_moves_add_up():
    """Steps as large as the parameters, so that the units are moved again and again."""
    inner = optax.sgd(1.0)
    optimizer = with_alignment(inner, REFERENCE, SPEC, every=1)
    params, plain, state = PARAMS, PARAMS, optimizer.init(PARAMS)
    update, num_moves = jax.jit(optimizer.update), 0
    for seed in range(10, 14):
        grads = mlp(SIZES, seed, np.float32)
        plain = jax.tree.map(lambda param, grad: param - grad, plain, grads)
        moved = SPEC.permute(grads, state.alignment_permutations)
        updates, state = update(moved, state, params)
        params = optax.apply_updates(params, updates)
        num_moves += int((state.alignment_move["l0"] != np.arange(SIZES[1])).any())
        assert_close(undone(state, SPEC, params), plain, 1e-5)
    assert num_moves > 1


def test_a_host_loop_does_the_same_exactly():
    inner = optax.adam(0.01)
    params, state, _ = train(inner, PARAMS, 10)
    alignment = align(REFERENCE, params, SPEC)
    moved = permute_state(inner, state, SPEC, alignment.permutations)
    inverse = {name: np.argsort(order) for name, order in alignment.permutations.items()}
    chex.assert_trees_all_equal(permute_state(inner, moved, SPEC, inverse), state)
    chex.assert_trees_all_equal(
        optax.tree.get(moved, "mu"), SPEC.permute(state[0].mu, alignment.permutations)
    )
    assert optax.tree.get(moved, "count") == 10


def test_under_vmap_each_run_has_its_own_permutations():
    batch = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(mlp(SIZES, seed, np.float32) for seed in (1, 2, 3))
    )
    optimizer = with_alignment(optax.adam(0.01), REFERENCE, SPEC, every=3)
    _, state, losses = jax.vmap(lambda params: train(optimizer, params, 7))(batch)
    for number in range(3):
        params = jax.tree.map(lambda x, n=number: x[n], batch)
        _, own, own_losses = train(optimizer, params, 7)
        np.testing.assert_allclose(losses[number], own_losses, rtol=1e-4)
        for name, order in own.alignment_permutations.items():
            np.testing.assert_array_equal(state.alignment_permutations[name][number], order)


def test_the_reference_may_be_traced():
    def run(reference, params):
        optimizer = with_alignment(optax.sgd(0.1), reference, SPEC, every=1)
        updates, _ = optimizer.update(jax.grad(loss)(params), optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    fixed = with_alignment(optax.sgd(0.1), REFERENCE, SPEC, every=1)
    updates, _ = fixed.update(jax.grad(loss)(PARAMS), fixed.init(PARAMS), PARAMS)
    assert_close(jax.jit(run)(REFERENCE, PARAMS), optax.apply_updates(PARAMS, updates), 1e-6)


def test_half_precision_updates_of_full_precision_land_exactly():
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), PARAMS)
    grads = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, jnp.float32), params)
    inner = optax.sgd(0.1)
    optimizer = with_alignment(inner, REFERENCE, SPEC, every=1)
    updates, state = optimizer.update(grads, optimizer.init(params), params)
    new = optax.apply_updates(params, inner.update(grads, inner.init(params))[0])
    landed = optax.apply_updates(params, updates)
    chex.assert_trees_all_equal_dtypes(landed, params)
    chex.assert_trees_all_equal(landed, SPEC.permute(new, state.alignment_move))


class TestContract:
    """What optax asks of every transformation."""

    OPTIMIZER = with_alignment(optax.adam(0.01), REFERENCE, SPEC, every=2)
    GRADS = jax.tree.map(lambda x: x + np.float32(0.1), PARAMS)

    def steps(self, optimizer, number, params=PARAMS, grads=GRADS):
        state, update = optimizer.init(params), jax.jit(optimizer.update)
        for _ in range(number):
            updates, state = update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    def test_the_state_keeps_its_structure_and_is_compiled_once(self):
        traces = []

        @jax.jit
        def update(grads, state, params):
            traces.append(1)
            return self.OPTIMIZER.update(grads, state, params, value=0.0, unknown="ignored")

        before = state = self.OPTIMIZER.init(PARAMS)
        for _ in range(4):
            updates, state = update(self.GRADS, state, PARAMS)
            chex.assert_trees_all_equal_shapes_and_dtypes(updates, PARAMS)
        chex.assert_trees_all_equal_structs(before, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(before, state)
        chex.assert_tree_all_finite(state)
        assert len(traces) == 1
        abstract = jax.eval_shape(self.OPTIMIZER.init, jax.eval_shape(lambda: PARAMS))
        chex.assert_trees_all_equal_shapes_and_dtypes(abstract, before)

    def test_multi_steps(self):
        plain = with_alignment(optax.adam(0.01), REFERENCE, SPEC, every=1)
        expected, _ = self.steps(plain, 2)
        around, state = self.steps(optax.MultiSteps(plain, 2), 4)
        assert optax.tree.get(state, "alignment_step") == 2
        assert_close(around, expected, 1e-5)

    def test_apply_if_finite(self):
        optimizer = optax.apply_if_finite(
            with_alignment(optax.adam(0.01), REFERENCE, SPEC, every=1), max_consecutive_errors=5
        )
        _, state = self.steps(optimizer, 1)
        nan = jax.tree.map(lambda x: x * np.float32(np.nan), self.GRADS)
        updates, after = jax.jit(optimizer.update)(nan, state, PARAMS)
        chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, PARAMS))
        chex.assert_trees_all_equal(after.inner_state, state.inner_state)

    def test_inject_hyperparams(self):
        optimizer = optax.inject_hyperparams(with_alignment)(
            optimizer=optax.sgd(0.1), reference=REFERENCE, spec=SPEC, every=2
        )
        _, state = self.steps(optimizer, 4)
        assert optax.tree.get(state, "alignment_matches") == 2

    def test_map_params_and_read_by_name(self):
        _, state = self.steps(self.OPTIMIZER, 2)
        doubled = optax.tree.map_params(self.OPTIMIZER, lambda x: 2 * x, state)
        for name in WithAlignmentState._fields[:-1]:
            chex.assert_trees_all_equal(optax.tree.get(doubled, name), optax.tree.get(state, name))
        chex.assert_trees_all_equal(
            optax.tree.get(doubled, "mu"),
            jax.tree.map(lambda x: 2 * x, optax.tree.get(state, "mu")),
        )

    def test_with_pfn_within(self):
        """Its blocks are of units by number, so that what it knows of them stays behind."""
        optimizer = with_alignment(with_pfn(optax.adam(0.01), every=2), REFERENCE, SPEC, every=2)
        params, state = self.steps(optimizer, 4)
        chex.assert_tree_all_finite(params)
        assert optax.tree.get(state, "pfn_diagnoses") == 2
        assert optax.tree.get(state, "alignment_matches") == 2

    def test_orbax_round_trip(self, tmp_path):
        import orbax.checkpoint as ocp

        _, state = self.steps(self.OPTIMIZER, 2)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / "state", state)
            checkpointer.wait_until_finished()
            like = jax.eval_shape(self.OPTIMIZER.init, PARAMS)
            restored = checkpointer.restore(tmp_path / "state", like)
        chex.assert_trees_all_equal(restored, state)

    def test_nnx_optimizer(self):
        from flax import nnx

        def make(seed):
            rngs = nnx.Rngs(seed)
            return nnx.Sequential(
                nnx.Linear(4, 6, rngs=rngs), jnp.tanh, nnx.Linear(6, 3, rngs=rngs)
            )

        model = make(0)
        graphdef, reference = nnx.split(make(1), nnx.Param)
        spec = unit_spec(lambda p, x: nnx.merge(graphdef, p)(x), reference, INPUTS)
        optimizer = nnx.Optimizer(
            model, with_alignment(optax.adam(0.1), reference, spec, every=1), wrt=nnx.Param
        )
        before = distance(reference, nnx.state(model, nnx.Param))

        @nnx.jit
        def step(model, optimizer):
            loss, grads = nnx.value_and_grad(lambda m: jnp.square(m(INPUTS)).mean())(model)
            optimizer.update(model, grads)
            return loss

        losses = [float(step(model, optimizer)) for _ in range(3)]
        assert losses[-1] < losses[0]
        assert distance(reference, nnx.state(model, nnx.Param)) < before
        assert optax.tree.get(optimizer.opt_state, "alignment_matches")[...] == 3


class TestBadInput:
    def test_options(self):
        with pytest.raises(ValueError, match="every must be at least 1, got 0"):
            with_alignment(optax.sgd(0.1), REFERENCE, SPEC, every=0)
        with pytest.raises(ValueError, match="max_sweeps must be at least 1, got 0"):
            with_alignment(optax.sgd(0.1), REFERENCE, SPEC, max_sweeps=0)
        with pytest.raises(ValueError, match="objective must be one of"):
            with_alignment(optax.sgd(0.1), REFERENCE, SPEC, objective="cubed")

    def test_reference(self):
        with pytest.raises(ValueError, match="'l0/b' has shape"):
            with_alignment(optax.sgd(0.1), mlp((4, 8, 3), 0), SPEC)
        bad = jax.tree.map(lambda x: x * np.float32(np.nan), REFERENCE)
        with pytest.raises(ValueError, match="l0/b has NaN entries"):
            with_alignment(optax.sgd(0.1), bad, SPEC)

    def test_parameters(self):
        optimizer = with_alignment(optax.sgd(0.1), REFERENCE, SPEC)
        state = optimizer.init(PARAMS)
        with pytest.raises(ValueError, match="call update with them"):
            optimizer.update(PARAMS, state)
        other = mlp((4, 9, 2), 0, np.float32)
        with pytest.raises(ValueError, match=r"'l1/b' has shape \(3,\) in the reference"):
            optimizer.init(other)
        with pytest.raises(ValueError, match=r"'l1/b' has shape \(3,\) in the reference"):
            optimizer.update(other, state, other)

    def test_a_state_that_cannot_follow(self):
        spec = mlp_spec((128, 256, 3))
        params = mlp((128, 256, 3), 0, np.float32)
        optimizer = with_alignment(optax.adafactor(0.1), params, spec)
        with pytest.raises(ValueError, match=r"for 'l0/w' of shape .* factored=False"):
            optimizer.init(params)
        with_alignment(optax.adafactor(0.1, factored=False), params, spec).init(params)

    def test_no_group_is_no_work(self):
        spec = UnitSpec((), SPEC.leaves)
        optimizer = with_alignment(optax.sgd(0.1), REFERENCE, spec, every=1)
        updates, state = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
        chex.assert_trees_all_equal(updates, jax.tree.map(lambda x: -0.1 * x, PARAMS))
        shrunk = jax.tree.map(lambda x: np.float32(0.9) * x, PARAMS)
        np.testing.assert_allclose(
            state.alignment_objective, distance(REFERENCE, shrunk), rtol=1e-5
        )
