"""Sizes go up in few steps, and never beyond the budget."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from pfn_optax.growth.proposal import Rule, proposed
from pfn_optax.growth.ranking import Ranked, Ranking


def ranking(*names, persistence=5, pinned=()):
    groups = (Ranked(name, 1.0, 0.5, persistence, (name,)) for name in names)
    return Ranking(tuple(groups), pinned)


def at_most(bound):
    """A budget of units, as words."""

    def excess(sizes):
        total = sum(sizes.values())
        return f"{total} units where {bound} are allowed" if total > bound else ""

    return excess


@given(st.integers(1, 300), st.floats(1.01, 4), st.integers(1, 20), st.integers(1, 2000))
def test_a_proposal_is_the_largest_size_within_the_budget(width, factor, chunk, bound):
    rule = Rule(factor, chunk)
    sizes, _, (reason, *_) = proposed(ranking("a"), {"a": width}, rule, at_most(bound))
    allowed = [size for size in rule.larger(width) if size <= bound]
    assert sizes == ({"a": max(allowed)} if allowed else {})
    assert all(size % chunk == 0 and size > width for size in rule.larger(width))
    assert rule.larger(width)[-1] < width * factor + chunk
    assert str(width) in reason
    if sizes != {"a": rule.larger(width)[-1]}:
        assert f"where {bound} are allowed" in reason


@given(st.integers(1, 300), st.floats(1.01, 4), st.integers(1, 20))
def test_what_shrinks_keeps_its_share(width, factor, chunk):
    for size in Rule(factor, chunk).smaller(width):
        assert size % chunk == 0
        assert width / factor <= size < width


def test_few_sizes_lie_on_the_way_to_a_width():
    size, sizes = 1, []
    while size < 1000:
        (size,) = proposed(ranking("a"), {"a": size}, Rule(), at_most(10**6)).sizes.values()
        sizes.append(size)
    assert sizes == [8, 16, 32, 64, 128, 256, 512, 1024]


def test_the_front_of_the_ranking_goes_first():
    widths = {"a": 8, "b": 8, "c": 8}
    everyone = ranking("b", "c", "a")
    proposal = proposed(everyone, widths, Rule(), at_most(60))
    assert proposal.sizes == {"b": 16, "c": 16, "a": 16}
    assert proposal.cut == ("b", "c", "a")
    assert proposal.reasons[0] == (
        "b grows from 8 to 16 units: in the cut at 5 diagnoses in a row, with 50% of its capacity"
    )
    proposal = proposed(everyone, widths, Rule(factor=4), at_most(60))
    assert proposal.sizes == {"b": 32, "c": 24}
    assert "c grows from 8 to 24 units (32 would take 64 units where 60" in proposal.reasons[1]
    assert "a stays at 8 units: 16 would take 72 units where 60" in proposal.reasons[2]
    proposal = proposed(everyone, widths, Rule(max_groups=1), at_most(60))
    assert proposal.sizes == {"b": 16}
    assert proposal.reasons[1:] == tuple(
        f"{name} waits at 8 units: others come before it" for name in "ca"
    )


def test_patience_and_pinned_layers():
    proposal = proposed(ranking("a", persistence=1), {"a": 8}, Rule(patience=3), at_most(60))
    assert proposal.sizes == {}
    assert proposal.reasons == ("a waits at 8 units: in the cut at 1 of 3 diagnoses",)
    proposal = proposed(ranking(pinned=("head",)), {"a": 8}, Rule(), at_most(60))
    assert proposal.sizes == {}
    assert "in the cut is head, where the narrower side is given by the data" in proposal.reasons[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 1.0}, "factor must be finite and above 1, got 1.0"),
        ({"factor": float("nan")}, "factor must be finite and above 1, got nan"),
        ({"chunk": 0}, "chunk must be an integer of at least 1, got 0"),
        ({"patience": 1.5}, "patience must be an integer of at least 1, got 1.5"),
        ({"max_groups": 0}, "max_groups must be an integer of at least 1, got 0"),
    ],
)
def test_bad_rules(options, message):
    with pytest.raises(ValueError, match=message):
        Rule(**options)
