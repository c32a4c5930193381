"""The study's method, step by step, against numbers worked out by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfn_optax import FlowGraph, PFNState, Status, pfn, with_pfn
from pfn_optax.compensation import compensation, next_persistence
from tests.tolerance import rtol
from tests.trees import dense

pytestmark = pytest.mark.usefixtures("unoptimized")

PARAMS = {name: {"kernel": jnp.ones((1, 2))} for name in ("a", "b", "c")}


def gradients(a, b, c):
    """Gradients with the given entries; with blocks of one unit an entry is a block norm."""
    entries = {"a": a, "b": b, "c": c}
    return {k: {"kernel": jnp.asarray([v], jnp.float32)} for k, v in entries.items()}


def run(optimizer, steps, params=PARAMS):
    """Returns the updates and states of a sequence of gradients."""
    state, history = optimizer.init(params), []
    for step in steps:
        updates, state = optimizer.update(step, state, params)
        history.append((updates, state))
    return history


def test_the_study_to_the_letter_over_three_diagnoses():
    # Rank capacities: two blocks make .1 and 1 in every layer, whatever the norms, so the three
    # layers tie and the cut nearest the loss is layer c, each time. By hand, with beta 1.8 and
    # gamma .15: 1 + 1.8 (1 + .15 p) = 2.8, 3.07, 3.34 for p = 0, 1, 2.
    steps = [gradients((1, 2), (4, 3), (0.5, 9))] * 3
    optimizer = pfn(capacity="rank", block_size=1, every=1)
    for expected, (updates, state) in zip((2.8, 3.07, 3.34), run(optimizer, steps), strict=True):
        np.testing.assert_allclose(state.pfn_capacities, [0.1, 1, 1, 0.1, 0.1, 1], rtol=rtol())
        np.testing.assert_allclose(state.pfn_flow, 1.1, rtol=rtol())
        np.testing.assert_array_equal(state.pfn_cut, [0, 0, 0, 0, 1, 1])
        assert state.pfn_certified
        assert not state.pfn_unique
        assert state.pfn_status == Status.CERTIFIED
        np.testing.assert_allclose(
            updates["c"]["kernel"], [[0.5 * expected, 9 * expected]], rtol=1e-6
        )
        chex.assert_trees_all_equal(updates["a"], steps[0]["a"])
        chex.assert_trees_all_equal(updates["b"], steps[0]["b"])


def test_the_cut_moves_and_persistence_starts_again():
    # Norm capacities, diagnosed every second step, EMA decay .5. By hand:
    #   EMA after 2 equal steps is the norm itself: a 3, b 7, c 11 -> cut a.
    #   then b gets (0, 1): EMA of b (3, 4) -> weights (.5^3, ...) below.
    first, second = gradients((1, 2), (3, 4), (5, 6)), gradients((9, 9), (0, 1), (5, 6))
    optimizer = pfn(capacity="norm", block_size=1, every=2, ema_decay=0.5)
    history = run(optimizer, [first, first, second, second, second, second])
    states = [state for _, state in history]
    # Bias-corrected EMA: sum of .5^(t-i) x_i over sum of .5^(t-i).
    weights = 0.5 ** np.arange(3, -1, -1)
    b0 = np.dot(weights, [3, 3, 0, 0]) / weights.sum()
    b1 = np.dot(weights, [4, 4, 1, 1]) / weights.sum()
    np.testing.assert_allclose(states[3].pfn_norms[2:4], [b0, b1], rtol=rtol())
    cuts = [np.flatnonzero(s.pfn_cut).tolist() for s in states]
    assert cuts == [[], [0, 1], [0, 1], [2, 3], [2, 3], [2, 3]]
    np.testing.assert_allclose(states[1].pfn_flow, 3, rtol=rtol())
    np.testing.assert_allclose(states[3].pfn_flow, b0 + b1, rtol=rtol())
    multipliers = [np.asarray(s.pfn_multipliers).max() for s in states]
    np.testing.assert_allclose(multipliers, [1, 2.8, 2.8, 2.8, 2.8, 3.07], rtol=1e-6)
    assert [int(s.pfn_persistence[2]) for s in states] == [0, 0, 0, 0, 0, 1]
    assert all(bool(s.pfn_unique) for s in states[1:])
    assert [int(s.pfn_diagnoses) for s in states] == [0, 1, 1, 2, 2, 3]


def test_persistence_and_compensation_operators():
    cut, was = jnp.array([1, 1, 0, 0], bool), jnp.array([1, 0, 1, 0], bool)
    persistence = next_persistence(cut, was, jnp.array([4, 0, 9, 0]))
    np.testing.assert_array_equal(persistence, [5, 0, 0, 0])
    options = {"beta": 1.8, "gamma": 0.15, "max_persistence": 15}
    ages = jnp.array([0, 1, 15, 400])
    gains = compensation(jnp.ones(4, bool), ages, **options)
    np.testing.assert_allclose(gains, [2.8, 3.07, 6.85, 6.85], rtol=1e-6)
    np.testing.assert_array_equal(compensation(jnp.zeros(4, bool), ages, **options), 1.0)


def test_before_adam_a_lasting_multiplier_cancels_and_behind_it_it_stays():
    # The numbers that `with_pfn` quotes: a constant gradient, multiplied by 6.85 from step
    # 8000 on, when Adam's averages have settled.
    params = {"a": {"kernel": jnp.ones((1, 1))}, "b": {"kernel": jnp.ones((1, 2))}}
    grads = {"a": {"kernel": jnp.full((1, 1), 0.1)}, "b": {"kernel": jnp.ones((1, 2))}}
    options = {"capacity": "norm", "every": 8000, "beta": 5.85, "gamma": 0.0}

    def ratios(optimizer):
        def step(state, _):
            updates, state = optimizer.update(grads, state, params)
            return state, updates["a"]["kernel"][0, 0] / updates["b"]["kernel"][0, 0]

        return np.asarray(jax.lax.scan(step, optimizer.init(params), length=11_001)[1])

    before = ratios(optax.chain(pfn(**options), optax.adam(1e-3)))
    behind = ratios(with_pfn(optax.adam(1e-3), **options))
    np.testing.assert_allclose(behind[[7998, 7999, 8500, 11_000]], [1, 6.85, 6.85, 6.85], rtol=1e-4)
    np.testing.assert_allclose(before[[7998, 8018, 8499, 10_999]], [1, 4.3, 1.5, 1.02], rtol=0.05)


def test_ties_go_to_the_side_that_is_asked_for():
    steps = [gradients((1, 2), (2, 1), (1, 2))]
    for side, cut in {"source": [4, 5], "sink": [0, 1]}.items():
        [(_, state)] = run(pfn(capacity="norm", block_size=1, every=1, side=side), steps)
        np.testing.assert_array_equal(np.flatnonzero(state.pfn_cut), cut)
        assert not state.pfn_unique


def test_a_given_graph_lets_the_cut_run_through_branches():
    # loss -> c -> (a beside b) -> data: the branches add up to 3 + 3, c has 7.
    steps = [gradients((1, 2), (2, 1), (3, 4))]
    graph = FlowGraph((("loss", "join", "c"), ("join", "data", "a"), ("join", "data", "b")))
    [(_, state)] = run(pfn(capacity="norm", block_size=1, every=1, graph=graph), steps)
    np.testing.assert_array_equal(state.pfn_cut, [1, 1, 1, 1, 0, 0])
    np.testing.assert_allclose(state.pfn_flow, 6, rtol=rtol())


def test_a_finite_skip_takes_part_and_an_infinite_one_is_reported():
    steps = [gradients((1, 2), (2, 1), (3, 4))]
    layers = (("loss", "m", "c"), ("m", "n", "b"), ("n", "data", "a"))
    finite = FlowGraph((*layers, ("m", "n", None, 2.5)))
    [(_, state)] = run(pfn(capacity="norm", block_size=1, every=1, graph=finite), steps)
    np.testing.assert_array_equal(np.flatnonzero(state.pfn_cut), [0, 1])
    infinite = FlowGraph((*layers, ("loss", "data")))
    [(updates, state)] = run(pfn(capacity="norm", block_size=1, every=1, graph=infinite), steps)
    assert state.pfn_status == Status.UNBOUNDED
    assert np.isinf(state.pfn_flow)
    chex.assert_trees_all_equal(updates, steps[0])


def test_tied_layer_is_in_the_cut_where_any_of_its_edges_is():
    graph = FlowGraph((("loss", "m", "c"), ("m", "n", "a"), ("n", "data", "c")))
    [(_, state)] = run(
        pfn(capacity="norm", block_size=1, every=1, graph=graph),
        [gradients((9, 9), (1, 1), (1, 2))],
    )
    np.testing.assert_array_equal(state.pfn_cut, [0, 0, 0, 0, 1, 1])


@pytest.mark.parametrize("form", ["pfn", "with_pfn"])
def test_renormalize_keeps_the_global_norm_and_the_proportions(form):
    params = {**dense(0, 5, 9, 4), "norm": {"scale": jnp.ones(7)}}
    grads = jax.tree.map(lambda x: x + 0.5, params)
    options = {"capacity": "norm", "every": 1, "renormalize": True}
    optimizer = pfn(**options) if form == "pfn" else with_pfn(optax.identity(), **options)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(optax.tree.norm(updates), optax.tree.norm(grads), rtol=rtol())
    kept = float(updates["norm"]["scale"][0] / grads["norm"]["scale"][0])
    assert kept < 1
    ratios = jax.tree.map(
        lambda u, g: np.asarray(u / g / kept, np.float64).round(3), updates, grads
    )
    assert set(np.concatenate([x.ravel() for x in jax.tree.leaves(ratios)])) == {1.0, 2.8}


def test_ema_window_measures_only_near_diagnoses():
    spike, calm = gradients((9, 9), (9, 9), (9, 9)), gradients((1, 2), (3, 4), (5, 6))
    options = {"capacity": "norm", "block_size": 1, "every": 4}
    history = run(pfn(ema_window=2, **options), [spike, spike, calm, calm])
    assert [int(s.pfn_measured) for _, s in history] == [0, 0, 1, 2]
    np.testing.assert_allclose(history[-1][1].pfn_norms, [1, 2, 3, 4, 5, 6], rtol=rtol())
    every_step = run(pfn(**options), [spike, spike, calm, calm])[-1][1]
    assert float(every_step.pfn_norms[0]) > 2


def test_energy_is_a_mean_of_squares():
    steps = [gradients((1, 1), (1, 1), (1, 1)), gradients((3, 3), (3, 3), (3, 3))]
    state = run(pfn(capacity="energy", block_size=2, ema_decay=0.5, every=2), steps)[-1][1]
    mean_square = (0.5 * 2 + 1 * 18) / 1.5
    np.testing.assert_allclose(state.pfn_capacities, mean_square, rtol=rtol())
    np.testing.assert_allclose(state.pfn_norms, np.sqrt(mean_square), rtol=rtol())


def test_a_capacity_of_ones_own():
    optimizer = pfn(capacity=lambda known, layout: 1 / known.gradient_norms, block_size=1, every=1)
    [(_, state)] = run(optimizer, [gradients((1, 2), (3, 4), (5, 6))])
    np.testing.assert_array_equal(np.flatnonzero(state.pfn_cut), [4, 5])


def test_beta_zero_only_diagnoses():
    step = gradients((1, 2), (3, 4), (5, 6))
    [(updates, state)] = run(pfn(capacity="norm", beta=0, every=1), [step])
    chex.assert_trees_all_equal(updates, step)
    assert state.pfn_cut.any()


def test_multipliers_hold_between_diagnoses():
    step = gradients((1, 2), (3, 4), (5, 6))
    history = run(pfn(capacity="norm", block_size=1, every=3), [step] * 8)
    held = [float(s.pfn_multipliers[0]) for _, s in history]
    np.testing.assert_allclose(held, [1, 1, 2.8, 2.8, 2.8, 3.07, 3.07, 3.07], rtol=1e-6)


def test_one_core_both_forms_see_the_same():
    step = gradients((1, 2), (3, 4), (5, 6))
    options = {"capacity": "norm", "block_size": 1, "every": 1}
    [(_, alone)] = run(pfn(**options), [step])
    [(_, around)] = run(with_pfn(optax.adam(0.1), **options), [step])
    chex.assert_trees_all_equal(alone, around.pfn_state)
    assert isinstance(alone, PFNState)
