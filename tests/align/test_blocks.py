"""Blocks against the trees that they were cut from."""

import numpy as np
import pytest

from pfn_optax.align.blocks import Matching, pieces_of
from pfn_optax.align.objective import on_host, squared_distance
from pfn_optax.paths import named_leaves
from pfn_optax.units import Group, Member, UnitSpec
from tests.align.networks import random_permutations, zoo

pytestmark = pytest.mark.usefixtures("unoptimized")

# Concatenation, flattened pixels, heads within an axis, a square matrix, layers in one leaf.
NAMES = ["densenet", "cnn", "transformer", "gru", "scanned_layers"]


@pytest.mark.parametrize("name", NAMES)
def test_the_objective_of_blocks_is_the_distance_of_the_permuted_trees(name):
    spec, a, b, *_ = zoo(name)
    a, b = on_host("a", a), on_host("b", b)
    matching = Matching(spec, a, b, np.float64)
    for seed in range(3):
        permutations = random_permutations(spec, seed)
        expected = squared_distance(a, spec.permute(b, permutations))
        assert matching.value(permutations) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_pieces_cover_every_entry_once(name):
    spec, a, *_ = zoo(name)
    leaves = dict(named_leaves(a))
    for path, leaf in leaves.items():
        numbers = np.arange(leaf.size).reshape(leaf.shape)
        own = [piece.cut(numbers).ravel() for piece in pieces_of(spec) if piece.path == path]
        np.testing.assert_array_equal(np.sort(np.concatenate(own)), np.arange(leaf.size))


@pytest.mark.parametrize("name", NAMES)
def test_products_change_as_the_other_group_does(name):
    """The rank-k change equals the product computed anew."""
    spec, a, b, *_ = zoo(name)
    matching = Matching(spec, on_host("a", a), on_host("b", b), np.float64)
    before, after = (random_permutations(spec, seed) for seed in (0, 1))
    pairs = [
        (block, axis) for block in matching.blocks if len(block.groups) == 2 for axis in range(2)
    ]
    assert pairs
    for block, axis in pairs:
        changed = block.product(axis, before) + block.change(axis, before, after)
        np.testing.assert_allclose(changed, block.product(axis, after), atol=1e-12)


def test_the_profit_of_a_group_is_the_fall_of_the_objective():
    spec, a, b, *_ = zoo("cnn")
    matching = Matching(spec, on_host("a", a), on_host("b", b), np.float64)
    permutations = random_permutations(spec, 0)
    name = "0/Conv_1"
    profit = sum(
        matching.blocks[number].product(axis, permutations)
        for number, axis in matching.places[name]
    )
    other = {**permutations, name: np.roll(permutations[name], 1)}
    gain = sum(
        profit[unit, other[name][unit]] - profit[unit, permutations[name][unit]]
        for unit in range(8)
    )
    assert matching.value(permutations) - matching.value(other) == pytest.approx(2 * gain)


def test_members_that_overlap_are_refused():
    members = (Member(("w",), 0), Member(("w",), 0, start=1))
    spec = UnitSpec((Group("u", 2, members),), ((("w",), (3,)),))
    with pytest.raises(ValueError, match=r"group 'u': w axis 0 from 1 .* overlaps another member"):
        pieces_of(spec)
    members = (Member(("w",), 0, before=2), Member(("w",), 0, after=3))
    spec = UnitSpec((Group("u", 2, members),), ((("w",), (6,)),))
    with pytest.raises(ValueError, match="overlaps another member"):
        pieces_of(spec)
