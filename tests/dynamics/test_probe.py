"""The probe: what it records, that it changes nothing, and optax's contract."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfn_optax.dynamics import DynamicsStatus, LyapunovProbeState, lyapunov_probe, lyapunov_spectrum
from tests.dynamics.oracles import weights

PARAMS = {"w": weights(0).astype(jnp.float32)}
HIDDEN, INPUTS = np.ones(6, np.float32), np.linspace(-1, 1, 8, dtype=np.float32)
PROBE = functools.partial(lyapunov_probe, lambda params: network(params), HIDDEN, every=3)


def network(params):
    return lambda h, x: jnp.tanh(params["w"] @ h + x)


def loss(params):
    return jnp.sum(jax.lax.scan(lambda h, x: (network(params)(h, x), h), HIDDEN, INPUTS)[0] ** 2)


def scanned(optimizer, steps=7, **extra_args):
    """Parameters before and states after every step, in one program."""

    @jax.jit
    def run(params):
        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state, params, **extra_args)
            return (optax.apply_updates(params, updates), state), (params, state)

        return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[1]

    return run(PARAMS)


@functools.cache
def trained():
    return scanned(optax.chain(PROBE(inputs=INPUTS, num_exponents=2), optax.adam(0.05)))


def test_training_is_bit_for_bit_the_same():
    params, state = trained()
    chex.assert_trees_all_equal(params, scanned(optax.chain(optax.identity(), optax.adam(0.05)))[0])
    assert optax.tree.get(state, "lyapunov_probes").tolist() == [0, 0, 1, 1, 1, 2, 2]
    for name in LyapunovProbeState._fields:
        assert optax.tree.get(state, name) is not None, name


def test_exponents_are_those_of_the_parameters_before_the_step():
    params, state = trained()
    found = optax.tree.get(state, "lyapunov_exponents")
    for step in (2, 5):
        before = {"w": params["w"][step]}
        expected = lyapunov_spectrum(network(before), HIDDEN, inputs=INPUTS, num_exponents=2)
        np.testing.assert_allclose(found[step], expected.exponents, rtol=1e-4)
        np.testing.assert_allclose(
            optax.tree.get(state, "lyapunov_standard_error")[step],
            expected.standard_error,
            rtol=1e-3,
        )
    np.testing.assert_array_equal(found[2], found[4])
    assert not found[:2].any()
    waiting, finished = DynamicsStatus.WAITING, DynamicsStatus.FINISHED
    assert optax.tree.get(state, "lyapunov_status").tolist() == [waiting] * 2 + [finished] * 5


def test_inputs_of_the_batch_and_the_eager_update():
    optimizer = PROBE(every=1)
    _, state = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS, lyapunov_inputs=INPUTS)
    expected = lyapunov_spectrum(network(PARAMS), HIDDEN, inputs=INPUTS, num_exponents=1)
    np.testing.assert_allclose(state.lyapunov_exponents, expected.exponents, rtol=1e-4)


def test_under_vmap_nothing_runs_between_probes():
    runs = []

    def counted(params):
        jax.debug.callback(lambda leaf: runs.append(1), params["w"][0, 0])
        return network(params)

    optimizer = lyapunov_probe(counted, HIDDEN, inputs=INPUTS, every=2)
    batch = {"w": jnp.stack([PARAMS["w"], 2 * PARAMS["w"]])}
    update, state = jax.jit(jax.vmap(optimizer.update)), jax.vmap(optimizer.init)(batch)
    for count in (0, 2, 2):
        _, state = update(batch, state, batch)
        jax.effects_barrier()
        assert len(runs) == count
    assert state.lyapunov_exponents[1, 0] != state.lyapunov_exponents[0, 0]


def test_a_trajectory_that_is_not_finite_keeps_the_last_exponents():
    optimizer = PROBE(inputs=INPUTS, every=1)
    update = jax.jit(optimizer.update)
    _, good = update(PARAMS, optimizer.init(PARAMS), PARAMS)
    updates, bad = update(PARAMS, good, {"w": PARAMS["w"] * jnp.nan})
    chex.assert_trees_all_equal(updates, PARAMS)
    assert (bad.lyapunov_status, bad.lyapunov_first_nonfinite) == (DynamicsStatus.NONFINITE, 0)
    assert bad.lyapunov_probes == good.lyapunov_probes == 1
    chex.assert_trees_all_equal(bad.lyapunov_exponents, good.lyapunov_exponents)


def test_state_keeps_its_structure():
    optimizer = PROBE(inputs=INPUTS, num_exponents=None)
    before = jax.eval_shape(optimizer.init, PARAMS)
    _, after = jax.eval_shape(optimizer.update, PARAMS, before, PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
    assert before.lyapunov_exponents.shape == (6,)
    for leaf in jax.tree.leaves((before, after)):
        assert not getattr(leaf, "weak_type", False)


def test_the_updates_are_differentiated_and_the_exponents_are_not():
    optimizer = PROBE(inputs=INPUTS, every=1)

    def total(scale):
        params = {"w": scale * PARAMS["w"]}
        updates, state = optimizer.update(params, optimizer.init(params), params)
        return updates["w"].sum() + state.lyapunov_exponents.sum()

    np.testing.assert_allclose(jax.grad(total)(1.0), PARAMS["w"].sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "params", "message"),
    [
        ({"every": 0}, PARAMS, "every must be at least 1, got 0"),
        ({}, None, "needs the parameters"),
        ({}, PARAMS, "give num_steps, or inputs"),
        ({"num_exponents": 7, "num_steps": 5}, PARAMS, "num_exponents must be in 1, ..., 6"),
    ],
)
def test_bad_input(options, params, message):
    def update():
        optimizer = lyapunov_probe(lambda _: lambda h: h, HIDDEN, **{"every": 1, **options})
        return optimizer.update(PARAMS, optimizer.init(PARAMS), params)

    with pytest.raises(ValueError, match=message):
        update()
