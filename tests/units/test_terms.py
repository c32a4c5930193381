"""Terms against what they stand for: arrays that are reshaped, transposed and cut."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from pfn_optax.units import num_symmetries, unit_spec
from pfn_optax.units.terms import (
    Dim,
    Product,
    concatenation,
    dims,
    pinned,
    product,
    stretches,
    unify,
)


def shape_of(term):
    """Sizes of the stretches, pinned ones negative."""
    return [
        tuple(-dim.size if dim.is_pinned else dim.size for dim in stretch)
        for stretch in stretches(term)
    ]


def test_a_free_dim_becomes_whatever_it_meets():
    whole, rows, columns = Dim(6), Dim(2), Dim(3)
    unify(whole, product((rows, columns)))
    assert stretches(whole) == [(rows, columns)]


def test_a_pinned_dim_pins_whatever_it_meets():
    whole, rows, columns = pinned(6), Dim(2), Dim(3)
    unify(product((rows, columns)), whole)
    assert rows.is_pinned
    assert columns.is_pinned


def test_products_meet_in_their_common_factors():
    left, right = product((Dim(4), Dim(3))), product((Dim(2), Dim(6)))
    unify(left, right)
    assert shape_of(left) == shape_of(right) == [(2, 2, 3)]


def test_factors_that_overlap_are_pinned():
    left, right = product((Dim(2), Dim(3))), product((Dim(3), Dim(2)))
    unify(left, right)
    assert shape_of(left) == shape_of(right) == [(-6,)]


def test_sums_meet_in_their_common_stretches():
    left, right = concatenation((Dim(4), Dim(3))), concatenation((Dim(2), Dim(5)))
    unify(left, right)
    assert shape_of(left) == shape_of(right) == [(2,), (2,), (3,)]


def test_equal_stretches_under_one_index_become_one():
    """What the heads of a fused projection of queries, keys and values do."""
    parts = [Dim(4), Dim(4), Dim(4)]
    rows, columns = Dim(3), Dim(4)
    unify(concatenation(parts), product((rows, columns)))
    stretches(columns)
    assert len({id(dim) for part in parts for dim in dims(part)}) == 1


def test_pixels_of_concatenated_channels_are_copies():
    flat = product((pinned(3), concatenation((Dim(2), Dim(4)))))
    assert shape_of(flat) == [(2,), (4,)] * 3


def test_a_sum_under_a_free_index_has_no_stretches():
    heads, halves = Dim(3), concatenation((Dim(2), Dim(4)))
    both = product((heads, halves))
    stretches(both)
    assert not heads.is_pinned
    assert all(dim.is_pinned for dim in dims(halves))


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="axes of sizes 2 and 3 cannot be one"):
        unify(Dim(2), Dim(3))


@st.composite
def terms(draw, size, depth=3):
    """A term of a given size."""
    divisors = [n for n in range(2, size) if size % n == 0]
    kinds = ["free", "free", "pinned", *(["product"] * bool(divisors)), *(["sum"] * (size > 1))]
    kind = draw(st.sampled_from(kinds if depth else kinds[:3]))
    if kind == "product":
        outer = draw(st.sampled_from(divisors))
        return product((draw(terms(outer, depth - 1)), draw(terms(size // outer, depth - 1))))
    if kind == "sum":
        first = draw(st.integers(1, size - 1))
        return concatenation((draw(terms(first, depth - 1)), draw(terms(size - first, depth - 1))))
    return Dim(size, is_pinned=kind == "pinned")


@given(st.data(), st.sampled_from([4, 6, 12, 24]))
def test_unified_terms_are_the_same_to_every_permutation(data, size):
    """Oracle: the entries that each of them moves when all free dims are permuted."""
    left, right = data.draw(terms(size)), data.draw(terms(size))
    unify(left, right)
    for _ in range(size):
        for term in (left, right):
            stretches(term)
    moves = {}
    np.testing.assert_array_equal(moved(left, moves), moved(right, moves))


def moved(term, moves):
    """Where each entry comes from."""
    entries = np.zeros(0, int)
    for stretch in stretches(term):
        sizes = tuple(dim.size for dim in stretch)
        index = np.arange(math.prod(sizes)).reshape(sizes)
        for axis, dim in enumerate(stretch):
            if not dim.is_pinned:
                permutation = np.random.default_rng(len(moves)).permutation(dim.size)
                index = index.take(moves.setdefault(id(dim), permutation), axis)
        entries = np.concatenate((entries, len(entries) + index.ravel()))
    return entries


def test_empty_product_and_sum_are_units():
    assert isinstance(product(()), Product)
    assert product(()).size == 1
    assert concatenation(()).size == 0


@st.composite
def rearrangements(draw):
    """A shape and a chain of reshapes, transposes and slices of it."""
    factors = draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4))
    steps, shape = [], tuple(factors)
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["reshape", "transpose", "slice"]))
        if kind == "reshape":
            rest, new = math.prod(shape), []
            while rest > 1:
                new.append(draw(st.sampled_from([n for n in range(2, rest + 1) if rest % n == 0])))
                rest //= new[-1]
            shape = tuple(new) or (1,)
            steps.append(("reshape", shape))
        elif kind == "transpose":
            order = draw(st.permutations(range(len(shape))))
            shape = tuple(shape[k] for k in order)
            steps.append(("transpose", tuple(order)))
        else:
            start = draw(st.integers(0, shape[0] - 1))
            stop = draw(st.integers(start + 1, shape[0]))
            shape = (stop - start, *shape[1:])
            steps.append(("slice", (start, stop)))
    return tuple(factors), steps, shape


@settings(max_examples=150)
@given(rearrangements())
def test_groups_of_rearranged_parameters_are_symmetries(drawn):
    """The function is evaluated by NumPy, and needs nothing that only JAX has."""
    shape, steps, last = drawn

    def function(params):
        x = params["w"]
        for kind, how in steps:
            x = x[how[0] : how[1]] if kind == "slice" else getattr(x, kind)(how)
        meeting = x * (x + params["v"])
        return (meeting * meeting * x).sum() + (params["v"] * x).sum()

    draw = np.random.default_rng(0)
    params = {"w": draw.normal(size=shape), "v": draw.normal(size=last)}
    spec = unit_spec(function, {k: v.astype(np.float32) for k, v in params.items()}, check=False)
    for group in spec.groups:
        changed = spec.permute(params, {group.name: draw.permutation(group.size)})
        assert function(changed) == pytest.approx(function(params), rel=1e-12)
    if all(kind == "transpose" for kind, _ in steps):
        assert num_symmetries(spec) == pytest.approx(
            sum(math.log10(math.factorial(n)) for n in shape)
        )
