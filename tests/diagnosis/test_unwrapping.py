"""Modules and optimizers of Flax NNX: the diagnosis is that of the arrays in them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from pfn_optax.diagnosis import TrainingSetup, diagnose
from pfn_optax.diagnosis.arguments import checked
from pfn_optax.diagnosis.factory import as_setup

X = jax.random.normal(jax.random.key(0), (32, 4))
BATCH = X, jnp.arange(32) % 3
OPTIMIZERS = {"adam": optax.adam(1e-2), "momentum": optax.sgd(0.1, momentum=0.9)}


def loss(model, batch):
    x, labels = batch
    return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()


def loss_of_arrays(params, batch):
    def model(x):
        first, last = params["layers"]["0"], params["layers"]["2"]
        return jax.nn.relu(x @ first["kernel"] + first["bias"]) @ last["kernel"] + last["bias"]

    return loss(model, batch)


def build(width=8):
    rngs = nnx.Rngs(0)
    return nnx.Sequential(
        nnx.Linear(4, width, rngs=rngs), nnx.relu, nnx.Linear(width, 3, rngs=rngs)
    )


def arrays(model):
    return {
        "layers": {
            str(n): {name: getattr(model.layers[n], name)[...] for name in ("bias", "kernel")}
            for n in (0, 2)
        }
    }


def trained(tx, wrt=nnx.Param, num_steps=3):
    """A module and its optimizer in mid-training; and what they are as plain trees of arrays."""
    model = build()
    params = arrays(model)
    optimizer, state = nnx.Optimizer(model, tx, wrt=wrt), tx.init(params)
    for _ in range(num_steps):
        where = nnx.DiffState(0, wrt)
        optimizer.update(model, nnx.grad(loss, argnums=where)(model, BATCH))
        updates, state = tx.update(jax.grad(loss_of_arrays)(params, BATCH), state, params)
        params = optax.apply_updates(params, updates)
    return model, optimizer, params, state


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_in_mid_training_is_diagnosed_as_its_arrays_are(name):
    tx = OPTIMIZERS[name]
    model, optimizer, params, state = trained(tx)
    found = diagnose(loss, model, BATCH, optimizer=optimizer)
    plain = diagnose(loss_of_arrays, params, BATCH, optimizer=tx, opt_state=state)
    assert found.measures == pytest.approx(plain.measures, rel=1e-3)
    assert "edge_of_stability" in found.measures
    assert [one.cause for one in found.findings] == [one.cause for one in plain.findings]
    for own, other in zip(found.layers, plain.layers, strict=True):
        assert own.name == other.name
        assert own.update_ratio == pytest.approx(other.update_ratio, rel=1e-3)
    gradients = jax.grad(loss_of_arrays)(params, BATCH)
    first, as_first = (
        optax.tree.norm(tx.update(gradients, one, params)[0]["layers"]["0"])
        for one in (state, tx.init(params))
    )
    norm = optax.tree.norm(params["layers"]["0"])
    assert found.layers[0].update_ratio == pytest.approx(float(first / norm), rel=1e-3)
    assert float(as_first) != pytest.approx(float(first), rel=1e-2)  # so the state counts


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_form_of_a_state_is_the_one_that_the_optimizer_makes(name):
    tx = OPTIMIZERS[name]
    model, optimizer, _, state = trained(tx)
    given = optimizer.opt_state
    bare = jax.tree.map(
        lambda one: one[...], given, is_leaf=lambda node: isinstance(node, nnx.Variable)
    )
    graph, variables = nnx.split(model)

    def loss_of_variables(variables, batch):
        return loss(nnx.merge(graph, variables), batch)

    forms = (
        TrainingSetup(loss, model, BATCH, optimizer=optimizer),
        TrainingSetup(loss, model, BATCH, optimizer=tx, opt_state=given),
        TrainingSetup(loss, model, BATCH, optimizer=tx, opt_state=bare),
        TrainingSetup(loss_of_variables, variables, BATCH, optimizer=tx, opt_state=given),
        TrainingSetup(loss_of_arrays, arrays(model), BATCH, optimizer=optimizer),
    )
    for form in forms:
        setup = checked(form)
        assert setup.optimizer is tx
        own = jax.eval_shape(tx.init, setup.params)
        assert jax.tree.structure(setup.opt_state) == jax.tree.structure(own)
        for one, other in zip(
            jax.tree.leaves(setup.opt_state), jax.tree.leaves(state), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_state_of_plain_arrays_is_left_alone():
    tx = OPTIMIZERS["adam"]
    params = arrays(build())
    state = tx.init(params)
    setup = checked(TrainingSetup(loss_of_arrays, params, BATCH, optimizer=tx, opt_state=state))
    assert setup.opt_state is state


def test_the_parameters_are_those_that_the_optimizer_trains():
    wrt = nnx.All(nnx.Param, nnx.PathContains("bias"))
    model, optimizer, _, _ = trained(OPTIMIZERS["adam"], wrt, num_steps=1)
    setup = checked(TrainingSetup(loss, model, BATCH, optimizer=optimizer))
    assert [leaf.shape for leaf in jax.tree.leaves(setup.params)] == [(8,), (3,)]
    value = setup.loss(setup.params, setup.batch)
    assert float(value) == pytest.approx(float(loss(model, BATCH)), rel=1e-6)


def test_what_does_not_go_together_is_refused():
    tx = OPTIMIZERS["adam"]
    model, optimizer, _, _ = trained(tx, num_steps=0)
    both = {"optimizer": optimizer, "opt_state": optimizer.opt_state}
    with pytest.raises(ValueError, match="which holds its own: leave opt_state out, or pass"):
        diagnose(loss, model, BATCH, **both)
    wide = nnx.Optimizer(build(9), tx, wrt=nnx.Param)
    message = r"opt_state must be .*0/mu/layers/0/bias has the shape \(9,\) in it, and \(8,\)"
    with pytest.raises(ValueError, match=message):
        diagnose(loss, model, BATCH, optimizer=wide)
    plain = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    with pytest.raises(ValueError, match=r"0/count has the shape None in it, and \(\) by"):
        diagnose(loss, model, BATCH, optimizer=tx, opt_state=plain.opt_state)


def test_a_factory_may_return_an_nnx_optimizer():
    model, optimizer, _, _ = trained(OPTIMIZERS["adam"], num_steps=0)
    assert as_setup((loss, model, BATCH, optimizer), "f").optimizer is optimizer
