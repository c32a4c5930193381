"""The controller grows the network where its cut is, within its budget, and says why."""

import logging

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfn_optax import Edge, FlowGraph, with_pfn
from pfn_optax.growth import Budget, GrowthController, cost_of, widths
from pfn_optax.units import Group, UnitSpec, UnitSpecError, unit_spec
from tests.growth.controlled import (
    OPTIMIZER,
    SPEC,
    X,
    controller_of,
    loss,
    optimizer_of,
    predict,
    start,
    trained,
    weights,
)

pytestmark = pytest.mark.usefixtures("unoptimized")


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_the_group_at_the_cut_grows_and_the_function_stays(caplog):
    params, state = start()
    controller = controller_of()
    with caplog.at_level(logging.INFO, "pfn_optax.growth"):
        grown = controller.step(params, state)
    assert grown.has_changed
    assert widths(grown.spec) == {"first": 16, "second": 8, "third": 16}
    assert controller.spec is grown.spec
    np.testing.assert_allclose(predict(grown.params, X), predict(params, X), rtol=1e-5, atol=1e-6)
    assert grown.optimizer_state[1][0].mu["third"]["w"].shape == (8, 16)
    np.testing.assert_array_equal(
        grown.optimizer_state[1][0].mu["second"]["w"][:, :2], state[1][0].mu["second"]["w"]
    )
    decision = grown.decision
    assert (decision.step, decision.diagnoses, decision.cut) == (2, 2, ("second",))
    assert (decision.grown, decision.shrunk) == ({"second": 6}, {})
    assert decision.num_params == cost_of(grown.params).params
    assert str(decision) == (
        "step 2: second grows from 2 to 8 units: in the cut at 2 diagnoses in a row, with 100% of "
        "its capacity; it has 440 parameters now"
    )
    assert [record.message for record in caplog.records] == [str(decision)]
    assert controller.record.decisions == (decision,)
    # Training goes on with what is returned.
    trained(grown.params, grown.optimizer_state)


def test_patience_counts_from_the_last_change():
    params, state = start(times=1)
    controller = controller_of()
    waiting = controller.step(params, state)
    assert not waiting.has_changed
    assert waiting.params is params
    assert waiting.optimizer_state is state
    assert "in the cut at 1 of 2 diagnoses" in str(waiting.decision)
    params, state = trained(params, state, times=1)
    assert controller.propose(params, state).sizes == {"second": 8}
    assert len(controller.record.decisions) == 1
    grown = controller.step(params, state, step=70)
    assert grown.has_changed
    assert grown.decision.step == 70
    params, state = grown.params, grown.optimizer_state
    again = controller.step(params, state)
    assert "no diagnosis since the sizes changed" in str(again.decision)
    assert not again.has_changed
    params, state = trained(params, state, times=1)
    assert "in the cut at 1 of 2 diagnoses" in str(controller.step(params, state).decision)
    params, state = trained(params, state, times=1)
    assert controller.step(params, state).decision.grown == {"second": 8}
    assert controller.record.widths["second"] == 16


def test_where_the_data_give_the_width_nothing_grows():
    params, state = start(cut="head")
    stepped = controller_of().step(params, state)
    assert not stepped.has_changed
    assert stepped.decision.cut == ()
    assert "in the cut is head, where the narrower side is given by the data" in str(
        stepped.decision
    )


def test_what_a_diagnosis_does_not_prove_is_not_acted_on():
    params, state = start()
    gradients = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), params)
    _, broken = OPTIMIZER.update(gradients, state, params)
    stepped = controller_of().step(params, broken)
    assert "the last diagnosis is NONFINITE_GRADIENT" in str(stepped.decision)
    assert not stepped.has_changed


def run(controller, num_calls):
    """Calls after every two diagnoses, all of which find the same cut."""
    params, state = start()
    for _ in range(num_calls):
        stepped = controller.step(params, state)
        params, state = trained(stepped.params, stepped.optimizer_state)
    return params


def test_programs_are_counted():
    controller = controller_of(budget=Budget(params=900), factor=4)
    seen = jax.jit(lambda params: predict(params, X))
    params, state = start()
    for _ in range(5):
        seen(params)
        stepped = controller.step(params, state)
        params, state = trained(stepped.params, stepped.optimizer_state)
    assert controller.record.num_changes == 2
    assert controller.record.num_programs == seen._cache_size() == 3
    assert [each["second"] for each in controller.record.architectures] == [2, 8, 16]
    limited = controller_of(max_changes=1)
    assert run(limited, 3)["second"]["b"].shape == (8,)
    assert "as many changes as max_changes=1" in str(limited.record.decisions[-1])


BUDGETS = {
    "params": Budget(params=720),
    "flops": Budget(flops=12_000),
    "memory": Budget(memory=4 * 4 * 760),
}


@pytest.mark.parametrize("kind", BUDGETS)
def test_the_budget_is_never_exceeded(kind):
    """Fewer units than the factor asks for, then none."""
    budget = BUDGETS[kind]
    controller = controller_of(budget=budget, factor=4, function=predict, batches=[(X,)])
    params = run(controller, 3)
    cost = cost_of(params, call=(predict, params, X), optimizer=OPTIMIZER)
    assert not budget.excess(cost)
    first, *_, last = controller.record.decisions
    assert first.grown == {"second": 6}
    assert controller.record.widths["second"] == 16
    assert "(24 would take" in str(controller.record.changes[-1])
    assert not last.has_changed
    assert "second stays at 16 units: 24 would take" in str(last)


def branches(params, spec):
    """A skip as wide as the group that it skips from."""
    width = spec.group("first").size
    edges = (
        Edge("loss", "sum", "head"),
        Edge("sum", "middle", "third"),
        Edge("middle", "stem", "second"),
        Edge("sum", "stem", capacity=1e-4 * width, width=width),
        Edge("stem", "data", "first"),
    )
    return FlowGraph(edges)


def test_graphs_and_optimizers_that_depend_on_sizes():
    built = []

    def rebuild(params, spec):
        built.append(widths(spec)["second"])
        return with_pfn(
            optax.sgd(0.1),
            capacity="norm",
            every=1,
            ema_decay=0.0,
            graph=branches(params, spec),
            warm_start=True,
        )

    optimizer = rebuild(None, SPEC)
    params, state = start(optimizer=optimizer)
    controller = controller_of(optimizer, rebuild_optimizer=rebuild, graph=branches)
    stepped = controller.step(params, state)
    assert stepped.decision.grown == {"second": 6}
    assert built == [2, 8]
    assert stepped.optimizer is controller.optimizer
    params, state = trained(
        stepped.params, stepped.optimizer_state, optimizer=stepped.optimizer, cut="first"
    )
    assert "in the cut is first" in str(controller.step(params, state).decision)
    assert built == [2, 8]


def test_several_groups_grow_in_one_change():
    """Two ways from the loss to the data, with a group in the cut on each."""
    sizes = {"a": (8, 6), "b": (6, 8), "c": (8, 4), "d": (4, 8)}

    def network(params, x):
        left = jnp.tanh(x @ params["a"]["w"]) @ params["b"]["w"]
        return left + jnp.tanh(x @ params["c"]["w"]) @ params["d"]["w"]

    params = {name: {"w": jnp.ones(size)} for name, size in sizes.items()}
    spec = unit_spec(network, params, jnp.ones((1, 8)), check=False)
    edges = (("loss", "x", "b"), ("x", "data", "a"), ("loss", "y", "d"), ("y", "data", "c"))
    graph = FlowGraph(tuple(Edge(*edge) for edge in edges))
    optimizer = optimizer_of(optax.sgd(0.1), graph=graph)
    state = optimizer.init(params)
    params, state = trained(params, state, cut="b c", optimizer=optimizer)
    options = {"graph": graph, "kinds": {}}
    stepped = controller_of(optimizer, spec, **options).step(params, state)
    assert stepped.decision.grown == {"a": 10, "c": 4}
    assert stepped.decision.cut == ("a", "c")
    stepped = controller_of(optimizer, spec, max_groups=1, **options).step(params, state)
    assert stepped.decision.grown == {"a": 10}


def test_cycles_of_accumulated_gradients():
    optimizer = optax.MultiSteps(optimizer_of(optax.sgd(0.1)), 2)
    params, state = start(times=4, optimizer=optimizer)
    controller = controller_of(optimizer)
    unfinished = trained(params, state, times=1, optimizer=optimizer)
    with pytest.raises(ValueError, match=r"in the middle of a cycle, 1 gradients .* an update"):
        controller.step(*unfinished)
    assert controller.record.decisions == ()
    assert controller.step(params, state).decision.grown == {"second": 6}


class Network(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.BatchNorm(True)(nn.Dense(self.width)(x)))
        return nn.Dense(5)(x)


def test_modules_of_linen_are_built_anew():
    """Their function fixes the widths, and batch statistics follow."""

    def build(spec):
        return Network(widths(spec)["params/Dense_0"]).apply

    variables = Network(2).init(jax.random.key(0), X)
    params, stats = variables["params"], variables["batch_stats"]
    spec = unit_spec(Network(2).apply, variables, X, check=False)
    optimizer = optimizer_of(optax.sgd(0.1))
    params, state = trained(params, optimizer.init(params), cut="Dense_0", optimizer=optimizer)
    controller = controller_of(
        optimizer,
        spec,
        budget=Budget(flops=5000),
        check=True,
        function=Network(2).apply,
        batches=[(X,)],
        rebuild=build,
    )
    before = Network(2).apply({"params": params, "batch_stats": stats}, X)
    grown = controller.step(params, state, batch_stats=stats)
    assert grown.decision.grown == {"params/Dense_0": 6}
    assert "of 5e+03 FLOPs" in str(grown.decision)
    new = {"params": grown.params, "batch_stats": grown.batch_stats}
    np.testing.assert_allclose(build(grown.spec)(new, X), before, rtol=1e-5, atol=1e-6)


BAD_CALLS = {
    "budget": (
        {"budget": Budget(params=100)},
        {},
        "exceeded before anything grows, by a network of 242 parameters where 100 are allowed",
    ),
    "memory": (
        {"budget": Budget(memory=1000)},
        {},
        "3,974 bytes where 1,000 are allowed: give a larger budget",
    ),
    "parameters": (
        {},
        {"params": {**weights(), "head": {"w": jnp.ones((3, 5))}}},
        r"'head/w' has shape \(3, 5\), the spec was made for",
    ),
    "state": ({}, {"optimizer_state": ()}, "expected one PFNState .*, found 0"),
    "options of pfn": (
        {"block_size": 4},
        {},
        "the state has 4 blocks, these parameters make",
    ),
    "optimizer": (
        {"optimizer": optimizer_of(optax.sgd(0.1))},
        {},
        "optimizer_state is not a state of the optimizer",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls_change_nothing(name):
    options, arguments, message = BAD_CALLS[name]
    params, state = start()
    before = jax.tree.map(np.array, (params, state))
    controller = controller_of(**options)
    record, spec = controller.record, controller.spec
    with pytest.raises(ValueError, match=message):
        controller.step(**{"params": params, "optimizer_state": state, **arguments})
    assert_same((params, state), before)
    assert controller.record is record
    assert controller.spec is spec


def test_a_wrong_spec_is_refused():
    params, state = start()
    members = tuple(
        member._replace(is_read=member.path[-1] == "b" or member.is_read)
        for member in SPEC.group("second").members
    )
    groups = tuple(
        Group("second", 2, members) if group.name == "second" else group for group in SPEC.groups
    )
    wrong = UnitSpec(groups, SPEC.leaves)
    controller = controller_of(spec=wrong, check=True, function=predict, batches=[(X,)])
    before = jax.tree.map(np.array, params)
    with pytest.raises(UnitSpecError, match="splitting group 'second'"):
        controller.step(params, state)
    assert controller.record.decisions == ()
    assert_same(params, before)
    sound = controller_of(check=True, function=predict, batches=[(X,)])
    assert sound.step(params, state).has_changed


REALLOCATE = {"reallocate": True, "max_loss_increase": 0.1}
DATA = {"function": predict, "batches": [(X,)], "loss": loss}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_changes": -1}, "max_changes must be an integer of at least 0, got -1"),
        ({"how": "copy"}, 'how must be "split" or "fresh", got \'copy\''),
        ({"every": 3}, "no option 'every'; of those of pfn"),
        (REALLOCATE, "give function, batches, loss and max_loss_increase"),
        ({**DATA, "reallocate": True}, "at least 0.* got max_loss_increase=None"),
        ({**REALLOCATE, **DATA, "max_loss_increase": -1.0}, "got max_loss_increase=-1.0"),
        ({**REALLOCATE, "loss": loss}, "reallocate runs the network: give function and batches"),
        ({"budget": Budget(flops=1)}, "a budget of FLOPs runs the network"),
        ({"check": True}, "check runs the network"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        GrowthController(SPEC, OPTIMIZER, **options)
