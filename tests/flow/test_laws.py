"""What must hold of every maximum flow, for capacities drawn by Hypothesis."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.flow.families import batch_solver, complete, cut_of, excess_of

NETWORK = complete(5)
SOLVE = batch_solver(NETWORK)
RTOL = 1e-5

capacity = st.one_of(
    st.just(0.0),
    st.integers(1, 4).map(float),
    st.floats(2.0**-20, 1.0, width=32),
)
capacity_batches = hnp.arrays(np.float32, (2, NETWORK.num_edges), elements=capacity)
law = settings(max_examples=60, deadline=None)


@law
@given(capacity_batches)
def test_flow_equals_cut_and_is_conserved(capacities):
    answers = SOLVE(capacities)
    assert answers.certified.all()
    flows = np.asarray(answers.flow)
    for c, value, cut, flow in zip(capacities, answers.value, answers.cut, flows, strict=True):
        np.testing.assert_allclose(c[cut].astype(np.float64).sum(), value, rtol=RTOL)
        excess = excess_of(NETWORK, flow)
        np.testing.assert_allclose(excess[NETWORK.sink], value, rtol=RTOL)
        np.testing.assert_allclose(excess[NETWORK.source], -value, rtol=RTOL)
        assert np.abs(excess[1:-1]).max() <= RTOL * value
        # Complementary slackness: full across the cut, empty against it.
        np.testing.assert_allclose(flow[cut], c[cut], rtol=RTOL, atol=RTOL * value)


@law
@given(capacity_batches, st.integers(-60, 60))
def test_powers_of_two_scale_exactly(capacities, exponent):
    answers = SOLVE(capacities)
    scaled = SOLVE(np.ldexp(capacities, exponent))
    np.testing.assert_array_equal(scaled.value, np.ldexp(answers.value, exponent))
    np.testing.assert_array_equal(scaled.flow, np.ldexp(np.asarray(answers.flow), exponent))
    for name in ("cut", "source_side", "unique", "certified", "rounds"):
        np.testing.assert_array_equal(getattr(scaled, name), getattr(answers, name))


@law
@given(capacity_batches)
def test_value_is_monotone(capacities):
    low, high = capacities.min(0), capacities.max(0)
    values = SOLVE(np.stack([low, high])).value
    assert values[0] <= values[1] * (1 + RTOL)


@law
@given(capacity_batches)
def test_value_is_concave(capacities):
    ends = SOLVE(capacities).value
    middle = SOLVE(np.stack([capacities.mean(0)] * 2)).value[0]
    assert middle >= ends.mean() * (1 - RTOL)


@law
@given(capacity_batches, st.integers(0, NETWORK.num_edges - 1), st.floats(0.125, 8.0))
def test_raising_an_edge(capacities, edge, amount):
    """Off the cut it leaves the flow; in a unique cut it raises it (the study's Lemma 3)."""
    answers = SOLVE(capacities)
    raised = capacities.copy()
    raised[:, edge] += np.float32(amount)
    values = SOLVE(raised).value
    for before, after, in_cut, unique in zip(
        answers.value, values, answers.cut[:, edge], answers.unique, strict=True
    ):
        if not in_cut:
            np.testing.assert_allclose(after, before, rtol=RTOL)
        elif unique and before < 1e3 * amount:
            assert after > before


@law
@given(hnp.arrays(np.int8, (2, NETWORK.num_edges), elements=st.integers(0, 3)), st.randoms())
def test_relabelling_nodes_moves_the_cut_along(capacities, random):
    """Inner nodes of the complete network are alike: permuting them permutes edges."""
    nodes = [0, *random.sample([1, 2, 3], 3), 4]
    size = NETWORK.num_nodes
    matrix = capacities[:, : size**2].reshape(2, size, size)
    permuted = np.zeros_like(matrix)
    permuted[:, np.array(nodes)[:, None], np.array(nodes)] = matrix
    none = np.zeros((2, NETWORK.num_edges - size**2))
    answers, others = (
        SOLVE(np.concatenate([m.reshape(2, -1), none], 1).astype(np.float32))
        for m in (matrix, permuted)
    )
    np.testing.assert_array_equal(answers.value, others.value)
    np.testing.assert_array_equal(answers.source_side, others.source_side[:, nodes])
    np.testing.assert_array_equal(answers.unique, others.unique)


@law
@given(capacity_batches)
def test_sides_are_nested(capacities):
    """The cut nearest the source lies within the one nearest the sink; both are minimal."""
    near, far = SOLVE(capacities), batch_solver(NETWORK, "sink")(capacities)
    assert (near.source_side <= far.source_side).all()
    np.testing.assert_allclose(near.value, far.value, rtol=RTOL)
    for side, cut in zip(far.source_side, far.cut, strict=True):
        np.testing.assert_array_equal(cut, cut_of(NETWORK, side))
