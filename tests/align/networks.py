"""Small networks in NumPy with specs by hand, and brute force over all their permutations."""

import functools
import itertools

import jax
import numpy as np

from pfn_optax.align import distance
from pfn_optax.units import Group, Member, UnitSpec, unit_spec
from tests.units.test_models import with_statistics
from tests.zoo import SMALL


def mlp_spec(sizes):
    """Dense layers with biases, ReLU between them; kernels are (inputs, outputs)."""
    groups, leaves = [], []
    for layer, (before, after) in enumerate(itertools.pairwise(sizes)):
        leaves += [((f"l{layer}", "b"), (after,)), ((f"l{layer}", "w"), (before, after))]
        if layer < len(sizes) - 2:
            members = (
                Member((f"l{layer}", "b"), 0, exponent=1),
                Member((f"l{layer}", "w"), 1, exponent=1),
                Member((f"l{layer + 1}", "w"), 0, exponent=-1),
            )
            groups.append(Group(f"l{layer}", after, members))
    return UnitSpec(tuple(groups), tuple(leaves))


def mlp(sizes, seed, dtype=np.float64):
    draw = np.random.default_rng(seed)
    return {
        f"l{layer}": {
            "b": draw.standard_normal(after).astype(dtype),
            "w": draw.standard_normal((before, after)).astype(dtype),
        }
        for layer, (before, after) in enumerate(itertools.pairwise(sizes))
    }


def mlp_output(params, x):
    for layer in range(len(params) - 1):
        x = np.maximum(x @ params[f"l{layer}"]["w"] + params[f"l{layer}"]["b"], 0)
    return x @ params[f"l{len(params) - 1}"]["w"] + params[f"l{len(params) - 1}"]["b"]


def recurrent_spec(width):
    """Reads a vector, applies a square matrix to its state again and again, writes a vector."""
    members = (
        Member(("in",), 1),
        Member(("again",), 0),
        Member(("again",), 1),
        Member(("out",), 0),
    )
    leaves = ((("again",), (width, width)), (("in",), (2, width)), (("out",), (width, 2)))
    return UnitSpec((Group("state", width, members),), leaves)


def recurrent(width, seed):
    draw = np.random.default_rng(seed)
    return {
        "again": 2 * draw.standard_normal((width, width)),
        "in": draw.standard_normal((2, width)),
        "out": draw.standard_normal((width, 2)),
    }


def random_permutations(spec, seed):
    draw = np.random.default_rng(seed)
    return {group.name: draw.permutation(group.size) for group in spec.groups}


def all_permutations(spec):
    for orders in itertools.product(*(itertools.permutations(range(g.size)) for g in spec.groups)):
        yield {g.name: np.array(order) for g, order in zip(spec.groups, orders, strict=True)}


def optimum(a, b, spec, objective="squared"):
    """The smallest objective over all permutations."""
    return min(
        distance(a, spec.permute(b, permutations), objective=objective)
        for permutations in all_permutations(spec)
    )


@functools.cache
def zoo(name):
    """A model of the zoo with no zeros: its spec, two networks, its function and arguments."""
    function, params, args = with_statistics(SMALL[name]())
    draw = np.random.default_rng(len(name))

    def moved(leaf):
        leaf = np.asarray(leaf)
        return np.abs(leaf + 0.3 * draw.standard_normal(leaf.shape)).astype(leaf.dtype)

    spec = unit_spec(function, params, *args, check=False)
    return spec, *(jax.tree.map(moved, params) for _ in range(2)), function, args
