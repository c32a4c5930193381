"""The probe: what it records, that it changes nothing, and optax's contract."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfn_optax.curvature import (
    CurvatureStatus,
    HessianProbeState,
    hessian_eigenvalues,
    hessian_probe,
)
from tests.curvature.models import data, loss, parameters

PARAMS = jax.tree.map(jnp.float32, parameters())
ARGS = jax.tree.map(jnp.float32, data())
OPTIONS = {
    "default": {},
    "both": {"k": 2, "which": "both"},
    "bottom": {"which": "bottom", "warm_start": False},
}
SMALL = {"num_vectors": 3, "max_products": 9}  # enough where few eigenvalues differ
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def value(params):
    return loss(params, *ARGS)


def chained(**options):
    return optax.chain(hessian_probe(**{"every": 3, **options}), optax.adam(0.05))


@functools.cache
def trained(name):
    """Shared by two tests."""
    return scanned(chained(**OPTIONS[name], tolerance=1e-4))


@functools.cache
def plain():
    """Parameters without a probe."""
    return scanned(optax.chain(optax.identity(), optax.adam(0.05)))[0]


def scanned(optimizer, params=PARAMS, steps=7, value_fn=value):
    """States after every step, in one program."""

    @jax.jit
    def run(params):
        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(
                jax.grad(value_fn)(params), state, params, value_fn=value_fn
            )
            carry = optax.apply_updates(params, updates), state
            return carry, carry

        return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[1]

    return run(params)


def last(tree):
    return jax.tree.map(lambda leaf: leaf[-1], tree)


@pytest.mark.parametrize("name", OPTIONS)
def test_training_is_bit_for_bit_the_same(name):
    params, state = trained(name)
    chex.assert_trees_all_equal(params, plain())
    assert optax.tree.get(state, "hessian_probes").tolist() == [0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("name", OPTIONS)
def test_eigenvalues_are_those_of_the_parameters_before_the_step(name):
    params, state = trained(name)
    values = optax.tree.get(state, "hessian_eigenvalues")
    for step in (2, 5):  # the third and the sixth
        before = jax.tree.map(lambda leaf, step=step: leaf[step - 1], params)
        dense = np.asarray(hessian_eigenvalues(value, before))[::-1]
        ends = {"default": dense[:1], "both": dense[[0, 1, -2, -1]], "bottom": dense[-1:]}
        np.testing.assert_allclose(values[step], ends[name], rtol=1e-3)
    np.testing.assert_array_equal(optax.tree.get(state, "hessian_sharpness"), values[:, 0])
    status = optax.tree.get(state, "hessian_status")
    assert status.tolist() == [CurvatureStatus.WAITING] * 2 + [CurvatureStatus.CONVERGED] * 5
    np.testing.assert_array_equal(values[2], values[4])  # kept between probes
    assert not values[:2].any()


def test_a_fixed_loss_and_value_fn_are_the_same():
    """One program, compared as text: nothing needs to run."""

    def program(optimizer, **extra_args):
        def update(params):
            return optimizer.update(params, optimizer.init(params), params, **extra_args)

        return str(jax.make_jaxpr(update)(PARAMS))

    given = program(hessian_probe(value, every=1), value=jnp.float32(0))
    assert given == program(hessian_probe(every=1), value_fn=value, grad=None)
    assert given != program(hessian_probe(every=1), value_fn=lambda params: 2 * value(params))


def test_warm_start_takes_fewer_products():
    """In late training, where the eigenvectors turn slowly."""
    counts = {}
    for warm in (True, False):
        optimizer = hessian_probe(
            value, every=1, num_vectors=6, tolerance=1e-3, warm_start=warm, max_products=200
        )
        _, state = scanned(optax.chain(optimizer, optax.sgd(1e-3)), steps=10)
        counts[warm] = int(optax.tree.get(state, "hessian_products")[1:].sum())
        assert (optax.tree.get(state, "hessian_status") == CurvatureStatus.CONVERGED).all()
    assert counts[True] < counts[False]


def test_under_vmap_each_model_has_its_own_and_nothing_runs_between_probes():
    runs = []

    def counted(params):
        jax.debug.callback(lambda leaf: runs.append(1), params["out"][0, 0])
        return value(params)

    optimizer = hessian_probe(counted, every=3, max_products=20)
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), PARAMS)
    update = jax.jit(jax.vmap(optimizer.update))
    state = jax.vmap(optimizer.init)(batch)
    for step in range(1, 5):
        _, state = update(batch, state, batch)
        jax.effects_barrier()
        assert bool(runs) == (step >= 3)
        if step == 3:
            seen = len(runs)
    assert len(runs) == seen
    for index in range(2):
        params = jax.tree.map(lambda leaf, index=index: leaf[index], batch)
        expected = hessian_eigenvalues(value, params)[-1]
        np.testing.assert_allclose(state.hessian_sharpness[index], expected, rtol=1e-2)


def test_a_loss_that_is_not_finite_keeps_the_last_values():
    optimizer = hessian_probe(value, every=1)
    update = jax.jit(optimizer.update)
    _, good = update(PARAMS, optimizer.init(PARAMS), PARAMS)
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, PARAMS)
    updates, bad = update(PARAMS, good, broken)
    chex.assert_trees_all_equal(updates, PARAMS)
    assert bad.hessian_status == CurvatureStatus.NONFINITE
    kept = {name: getattr(bad, name) for name in bad._fields[1:] if name != "hessian_status"}
    kept.pop("hessian_products")
    for name, leaf in kept.items():
        chex.assert_trees_all_equal(leaf, getattr(good, name))
    _, again = update(PARAMS, bad, PARAMS)
    assert again.hessian_status == CurvatureStatus.CONVERGED
    assert again.hessian_probes == 2


def test_the_bound_on_products_is_kept():
    optimizer = hessian_probe(value, every=1, num_vectors=4, max_products=4, tolerance=1e-6)
    _, state = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
    assert state.hessian_status == CurvatureStatus.UNCONVERGED
    assert state.hessian_products == 4
    exact = hessian_eigenvalues(value, PARAMS)[-1]
    assert abs(state.hessian_sharpness - exact) <= state.hessian_residuals[0]


# Optax's contract.


@every_option
def test_state_keeps_its_structure(options):
    optimizer = hessian_probe(value, every=1, **options)
    before = optimizer.init(PARAMS)
    _, after = jax.eval_shape(optimizer.update, PARAMS, before, PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
    for leaf in jax.tree.leaves((before, after)):
        assert not getattr(leaf, "weak_type", False)
    abstract = jax.eval_shape(lambda: PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(optimizer.init, abstract), before)


@pytest.mark.usefixtures("x64")
def test_float64():
    optimizer, params = hessian_probe(every=1, tolerance=1e-8, max_products=500), parameters()
    args = data()
    _, state = optimizer.update(
        params, optimizer.init(params), params, value_fn=lambda p: loss(p, *args)
    )
    assert state.hessian_sharpness.dtype == jnp.float64
    expected = hessian_eigenvalues(loss, params, *args)[-1]
    np.testing.assert_allclose(state.hessian_sharpness, expected, rtol=1e-12)


def test_half_precision():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    optimizer = hessian_probe(value, every=1, max_products=20)
    updates, state = optimizer.update(params, optimizer.init(params), params)
    chex.assert_trees_all_equal_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(optimizer.init(params), state)
    np.testing.assert_allclose(
        state.hessian_sharpness, hessian_eigenvalues(value, PARAMS)[-1], rtol=0.05
    )


def test_read_by_name_in_a_chain_and_inside_multi_steps():
    optimizer = optax.MultiSteps(chained(every=1, max_products=20), every_k_schedule=2)
    state = last(scanned(optimizer, steps=4)[1])
    for name in HessianProbeState._fields:
        assert optax.tree.get(state, name) is not None, name
    assert optax.tree.get(state, "hessian_step") == 2
    assert optax.tree.get(state, "hessian_probes") == 2


def test_map_params_sees_one_tree_like_the_parameters():
    optimizer = chained()
    state = optimizer.init(PARAMS)
    marked = optax.tree.map_params(optimizer, lambda leaf: leaf + 1, state)
    for name in HessianProbeState._fields:
        before, after = optax.tree.get(state, name), optax.tree.get(marked, name)
        if name == "hessian_vector":
            before = jax.tree.map(lambda leaf: leaf + 1, before)
        chex.assert_trees_all_equal(after, before)


def bias_energy(params):
    """Hessian 2 on the bias, 0 elsewhere; does not read what is masked."""
    return jnp.sum(params["in"]["bias"] ** 2)


WRAPPERS = {
    "masked chain": lambda probe: optax.masked(
        optax.chain(optax.clip(1.0), probe, optax.scale(-1.0)), {"in": True, "out": False}
    ),
    "partition": lambda probe: optax.partition(
        {"seen": probe, "other": optax.sgd(0.1)}, {"in": "seen", "out": "other"}
    ),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_on_a_part_of_the_parameters(name):
    optimizer = WRAPPERS[name](hessian_probe(bias_energy, every=1, **SMALL))
    before = optimizer.init(PARAMS)
    _, state = optimizer.update(PARAMS, before, PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(before, state)
    np.testing.assert_allclose(optax.tree.get(state, "hessian_sharpness"), 2, rtol=1e-5)


def test_inject_hyperparams():
    """Numbers in the state, or from a schedule; what shapes the program is refused by name."""
    static = ("loss", "k", "num_vectors", "max_products")
    inject = optax.inject_hyperparams(hessian_probe, static_args=static)
    optimizer = inject(bias_energy, every=lambda count: 1 + (count > 0), tolerance=0.1, **SMALL)
    state, probes = optimizer.init(PARAMS), []
    for _ in range(4):
        _, state = optimizer.update(PARAMS, state, PARAMS)
        probes.append(int(optax.tree.get(state, "hessian_probes")))
    assert probes == [1, 2, 2, 3]
    np.testing.assert_allclose(state.hyperparams["tolerance"], 0.1, rtol=1e-6)
    with pytest.raises(ValueError, match=r"k shapes the program.*list it in `static_args`"):
        optax.inject_hyperparams(hessian_probe)(k=2).init(PARAMS)


@pytest.mark.parametrize("warm_start", [True, False])
def test_orbax_round_trip(warm_start, tmp_path):
    import orbax.checkpoint as ocp

    optimizer = optax.chain(hessian_probe(warm_start=warm_start), optax.adam(0.1))
    state = jax.tree.map(lambda leaf: leaf + 1, optimizer.init(PARAMS))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(optimizer.init, PARAMS))
    chex.assert_trees_all_equal(restored, state)


def test_nnx_optimizer():
    from flax import nnx

    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))

    def energy(params):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))

    probe = hessian_probe(energy, every=1, **SMALL)
    optimizer = nnx.Optimizer(model, optax.chain(probe, optax.sgd(0.1)), wrt=nnx.Param)
    optimizer.update(model, nnx.state(model, nnx.Param))
    assert optax.tree.get(optimizer.opt_state, "hessian_probes")[...] == 1
    sharpness = optax.tree.get(optimizer.opt_state, "hessian_sharpness")[...]
    np.testing.assert_allclose(sharpness, 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"k": 31}, "k=31 at top asks for 31 eigenvalues; this operator has 30"),
        ({"which": "largest"}, "which must be one of"),
        ({"tolerance": 2.0}, "tolerance must be between 0 and 1"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            lambda: scanned(hessian_probe(**options), steps=1)  # the factory or the first trace
        )


@pytest.mark.parametrize(
    ("params", "value_fn", "message"),
    [
        (PARAMS, None, r"knows no loss.*value_fn=loss"),
        (None, value, "needs the parameters"),
        ({"w": jnp.ones(2, jnp.complex64)}, value, "w is complex64"),
        ({}, value, "no leaves"),
    ],
)
def test_missing_arguments(params, value_fn, message):
    optimizer = hessian_probe(every=1)
    state = optimizer.init({} if params is None else params)
    with pytest.raises(ValueError, match=message):
        optimizer.update(params, state, params, value_fn=value_fn)
