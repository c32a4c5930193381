"""A run that is taken up again from a checkpoint goes on as if it had not stopped."""

import json
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from pfn_optax import pfn
from pfn_optax.growth import Decision, GrowthController, GrowthRecord, widths
from pfn_optax.units import unit_spec
from tests.growth.controlled import (
    KINDS,
    OPTIMIZER,
    SPEC,
    controller_of,
    start,
    trained,
    weights,
)

pytestmark = pytest.mark.usefixtures("unoptimized")


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def go_on(controller, params, state):
    """Two more rounds of training and growth."""
    for _ in range(2):
        params, state = trained(params, state)
        stepped = controller.step(params, state)
        params, state = stepped.params, stepped.optimizer_state
    return params, state


def test_the_continuation_is_the_same(tmp_path):
    controller = controller_of()
    params, state = start()
    stepped = controller.step(params, state)
    params, state = trained(stepped.params, stepped.optimizer_state, times=1)
    controller.step(params, state)  # waits, which the record holds too
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(
            3,
            args=ocp.args.Composite(
                network=ocp.args.StandardSave((params, state)),
                growth=ocp.args.JsonSave(controller.record.to_dict()),
            ),
        )
    expected = go_on(controller, params, state)

    again = controller_of()
    with ocp.CheckpointManager(tmp_path) as manager:
        record = manager.restore(3, args=ocp.args.Composite(growth=ocp.args.JsonRestore())).growth
        shapes = again.restore(record, weights(1))
        assert widths(again.spec) == widths(shapes.spec) == {"first": 16, "second": 8, "third": 16}
        assert shapes.params["third"]["w"].shape == (8, 16)
        restored = manager.restore(
            3,
            args=ocp.args.Composite(
                network=ocp.args.StandardRestore((shapes.params, shapes.optimizer_state))
            ),
        ).network
    assert_same(restored, (params, state))
    assert_same(go_on(again, *restored), expected)
    assert again.record == controller.record
    assert again.record.num_changes == 3


class Network(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(4, 2, rngs=rngs)
        self.norm = nnx.BatchNorm(2, use_running_average=True, rngs=rngs)
        self.head = nnx.Linear(2, 5, rngs=rngs)

    def __call__(self, x):
        return self.head(jnp.tanh(self.norm(self.first(x))))


INPUTS = jnp.ones((3, 4))


def module_and_optimizer():
    module = Network(nnx.Rngs(0))
    tx = optax.chain(pfn(capacity="norm", every=1, beta=0.0), optax.adam(0.01))
    return module, nnx.Optimizer(module, tx, wrt=nnx.Param)


def module_controller(module, optimizer):
    graph, *trees = nnx.split(module, nnx.Param, ...)
    spec = unit_spec(lambda tree, x: nnx.merge(graph, *tree)(x), tuple(trees), INPUTS, check=False)
    return GrowthController(spec, optimizer.tx, capacity="norm", patience=1)


def train_module(module, optimizer, cut):
    def scaled(path, leaf):
        return jnp.full_like(leaf, 1e-3 if path[0].key == cut else 1.0)

    optimizer.update(module, jax.tree_util.tree_map_with_path(scaled, nnx.state(module, nnx.Param)))


def test_modules_of_nnx_grow_and_are_restored():
    module, optimizer = module_and_optimizer()
    controller = module_controller(module, optimizer)
    train_module(module, optimizer, "first")
    stepped = controller.step_module(module, optimizer, inputs=(INPUTS,))
    assert stepped.has_changed
    assert (stepped.module.first.out_features, stepped.module.norm.num_features) == (8, 8)
    np.testing.assert_allclose(stepped.module(INPUTS), module(INPUTS), rtol=1e-5)
    assert widths(stepped.spec) == controller.record.widths == {"0/first": 8}
    train_module(stepped.module, stepped.optimizer, "head")
    assert stepped.optimizer.step[...] == 2
    waits = controller.step_module(stepped.module, stepped.optimizer, inputs=(INPUTS,))
    assert not waits.has_changed
    assert waits.module is stepped.module
    assert waits.optimizer is stepped.optimizer
    saved = nnx.to_pure_dict(nnx.state((waits.module, waits.optimizer)))

    narrow = module_and_optimizer()
    again = module_controller(*narrow)
    module, optimizer = again.restore_module(controller.record.to_dict(), *narrow)
    assert (module.first.out_features, module.norm.num_features) == (8, 8)
    state = nnx.state((module, optimizer))
    nnx.replace_by_pure_dict(state, saved)
    nnx.update((module, optimizer), state)
    assert_same(nnx.to_pure_dict(nnx.state((module, optimizer))), saved)
    np.testing.assert_array_equal(module(INPUTS), stepped.module(INPUTS))
    assert again.record == controller.record
    train_module(module, optimizer, "first")
    # Its four inputs are narrower now.
    decision = again.step_module(module, optimizer, inputs=(INPUTS,)).decision
    assert "in the cut is first" in str(decision)


def test_a_module_that_cannot_be_rebuilt_changes_nothing():
    class Own(Network):
        def __init__(self, rngs):
            super().__init__(rngs)
            self.width = 2

        def __call__(self, x):
            return super().__call__(x.reshape(-1, 4)) / self.first.out_features

    module = Own(nnx.Rngs(0))
    tx = optax.chain(pfn(capacity="norm", every=1, beta=0.0), optax.sgd(0.1))
    optimizer = nnx.Optimizer(module, tx, wrt=nnx.Param)
    controller = module_controller(module, optimizer)
    train_module(module, optimizer, "first")
    record = controller.record
    with pytest.raises(ValueError, match=r"outputs .* differ by .* a number that depends on a wi"):
        controller.step_module(module, optimizer, inputs=(INPUTS,))
    assert controller.record is record
    assert widths(controller.spec) == {"0/first": 2}


def test_records():
    decisions = (
        Decision(10, 2, ("a",), {"a": 6}, {"b": 8}, 100, ("why", "where")),
        Decision(20, 4, (), {}, {}, 100, ("there was none",)),
        Decision(30, 6, ("b",), {"b": 8}, {"a": 6}, 90, ("back",)),
    )
    record = GrowthRecord({"a": 2, "b": 16})
    for number, decision in enumerate(decisions):
        record = record.with_decision(decision, 99)
        assert len(record.decisions) == number + 1
    assert record.reference == 99
    assert record.architectures == ({"a": 2, "b": 16}, {"a": 8, "b": 8}, {"a": 2, "b": 16})
    assert (record.num_changes, record.num_programs, record.since) == (2, 2, 6)
    assert str(record) == "step 10: why; where\nstep 30: back"
    assert GrowthRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record
    assert str(GrowthRecord({"a": 2})) == "no change"


def test_records_of_something_else_are_refused():
    controller = controller_of()
    record = controller.record.to_dict()
    with pytest.raises(ValueError, match=r'with "format": "pfn_optax\.growth", got 3'):
        controller.restore(cast(Any, 3), weights())
    with pytest.raises(ValueError, match="reads records of version 1, got 2"):
        controller.restore(record | {"version": 2}, weights())
    other = record | {"initial": {"first": 16}}
    with pytest.raises(ValueError, match=r"another network: it had the groups {'first': 16}, this"):
        controller.restore(other, weights())
    wide = jax.tree.map(lambda leaf: jnp.ones([2 * size for size in leaf.shape]), weights())
    with pytest.raises(ValueError, match="the spec was made for shape"):
        controller.restore(record, wide)
    assert controller.spec is SPEC
    stepped = controller_of(kinds=KINDS)
    stepped.step(*start())
    with pytest.raises(ValueError, match="Make a new controller"):
        stepped.restore(record, weights())
    assert controller.optimizer is OPTIMIZER
