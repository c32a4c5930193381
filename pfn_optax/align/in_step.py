"""Weight matching inside `jax.jit`: the descent of `align`, as a step of training can take it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.align.assignment import best_assignment
from pfn_optax.align.blocks import pieces_of
from pfn_optax.align.objective import Objective, prepared, require_same_leaves
from pfn_optax.paths import named_leaves
from pfn_optax.units import UnitSpec


class StepMatch(NamedTuple):
    """What a matching inside `jax.jit` found.

    Attributes:
        permutations: i32[size] by group: the new unit `i` is the old unit `permutation[i]`.
        before: f[], the objective between the two as they were given.
        after: f[], the objective now.
        sweeps: i32[], rounds over all groups.
    """

    permutations: dict[str, jax.Array]
    before: jax.Array
    after: jax.Array
    sweeps: jax.Array


class _Block(NamedTuple):
    """Entries of both networks that the same groups index: `f[rest, *sizes of the groups]`."""

    groups: tuple[str, ...]
    a: jax.Array
    b: jax.Array

    def permuted(self, permutations: dict[str, jax.Array], without: int = -1) -> jax.Array:
        """The entries of b, permuted on every axis but one."""
        b = self.b
        for axis, group in enumerate(self.groups):
            if axis != without:
                b = b.take(permutations[group], axis + 1)
        return b

    def product(self, axis: int, permutations: dict[str, jax.Array]) -> jax.Array:
        """Inner products of the units of a and b, the other axes of b permuted: f[size, size]."""
        others = [k for k in range(self.a.ndim) if k != axis + 1]
        b = self.permuted(permutations, without=axis)
        return jnp.tensordot(self.a, b, (others, others), precision=jax.lax.Precision.HIGHEST)

    def inner(self, permutations: dict[str, jax.Array]) -> jax.Array:
        """The inner product of a and the permuted b."""
        return jnp.sum(self.a * self.permuted(permutations))


def match(
    a: Any,
    b: Any,
    spec: UnitSpec,
    *,
    objective: Objective = "squared",
    max_sweeps: jax.Array | int = 100,
) -> StepMatch:
    r"""Finds permutations of b's hidden units that bring it near to a, inside `jax.jit`.

    $$\min_\pi \; d(a, \pi(b))$$

    Coordinate descent from b as it is: one group after the other in the spec's order, each by
    `optax.assignment.hungarian_algorithm` with all others held, until none can gain. The objective
    and the moves are those of `align(method="coordinate")`; what differs is the precision (that of
    the parameters, at least f32) and the order of the groups (there drawn at random). Where a
    value is not finite, or its square overflows, nothing moves.

    Args:
        a: the parameters to come near to.
        b: those that would move: a tree of the same structure.
        spec: the groups of hidden units.
        objective: see `pfn_optax.align.distance`.
        max_sweeps: largest number of rounds over all groups; may be traced.

    Returns:
        The permutations, to be applied by `spec.permute`.

    Raises:
        ValueError: if the trees differ or have complex leaves, do not fit the spec, or the
            objective is none.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pfn_optax.align.in_step import match
        >>> from pfn_optax.units import unit_spec
        >>> a = {"in": jnp.asarray([[1.0, 2.0, 3.0]]), "out": jnp.asarray([[4.0], [5.0], [6.0]])}
        >>> spec = unit_spec(lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"], a, jnp.ones((1, 1)))
        >>> b = spec.permute(a, {"in": [2, 0, 1]})
        >>> found = jax.jit(lambda a, b: match(a, b, spec))(a, b)
        >>> found.permutations["in"].tolist(), float(found.before), float(found.after)
        ([1, 2, 0], 12.0, 0.0)

    Reference:
        Ainsworth, Hayase, Srinivasa, "Git Re-Basin", ICLR 2023, algorithm 1.
    """
    require_same_leaves(a, b)
    left, right = (_prepared(tree, objective) for tree in (a, b))
    blocks = _blocks(spec, left, right)
    scale = sum(jnp.sum(jnp.square(x)) for block in blocks for x in (block.a, block.b))
    names = [group.name for group in spec.groups if group.size > 1]
    start = {group.name: jnp.arange(group.size, dtype=jnp.int32) for group in spec.groups}

    def sweep(carry):
        permutations, stale, sweeps = carry
        for name in names:
            moved, has_gained = _improved(blocks, name, permutations, stale[name], scale)
            permutations = {**permutations, name: moved}
            stale = {**stale, name: jnp.zeros_like(has_gained)}
            for other in _neighbours(blocks, name) & {*names}:
                stale[other] = stale[other] | has_gained
        return permutations, stale, sweeps + 1

    def is_unfinished(carry):
        _, stale, sweeps = carry
        return jnp.asarray([*stale.values()], bool).any() & (sweeps < max_sweeps)

    stale = {name: jnp.ones((), bool) for name in names}
    carry = start, stale, jnp.zeros((), jnp.int32)
    permutations, _, sweeps = jax.lax.while_loop(is_unfinished, sweep, carry)
    return StepMatch(
        permutations,
        before=_distance(left, right),
        after=_distance(left, spec.permute(right, permutations)),
        sweeps=sweeps,
    )


def _improved(
    blocks: list[_Block],
    name: str,
    permutations: dict[str, jax.Array],
    is_stale: jax.Array,
    scale: jax.Array | int,
) -> tuple[jax.Array, jax.Array]:
    """The best permutation of a group with all others held, and whether it gains anything."""
    current = permutations[name]
    products = [
        (block, axis, block.product(axis, permutations))
        for block in blocks
        for axis, group in enumerate(block.groups)
        if group == name
    ]
    profit = sum((product for *_, product in products), jnp.zeros((len(current),) * 2, jnp.float32))
    units = jnp.arange(len(current))
    # What the solver would do with entries that are not finite is not specified.
    is_due = is_stale & jnp.isfinite(profit).all()
    is_due &= (profit[units, current] < profit.max(axis=1)).any()

    def solve(carry):
        return jnp.zeros_like(is_due), best_assignment(profit)

    # A loop of one round or none: `lax.cond` would solve every time under `vmap`.
    best = jax.lax.while_loop(lambda carry: carry[0], solve, (is_due, current))[1]
    gain = jnp.sum(profit[units, best] - profit[units, current])
    # The profit counts a block with two axes of the group once for each, the other one held.
    squares = [found for found in products if found[0].groups.count(name) > 1]
    for block, axis, product in squares:
        gain -= jnp.sum(product[units, best] - product[units, current])
        if axis == block.groups.index(name):
            gain += block.inner({**permutations, name: best}) - block.inner(permutations)
    # Gains below this may be rounding.
    has_gained = gain > 4 * jnp.finfo(profit.dtype).eps * scale
    return jnp.where(has_gained, best, current), has_gained


def _neighbours(blocks: list[_Block], name: str) -> set[str]:
    """Groups that share a block with a group; itself where it has two axes of one."""
    others: set[str] = set()
    for block in blocks:
        if name in block.groups:
            rest = list(block.groups)
            rest.remove(name)
            others |= {*rest}
    return others


def _blocks(spec: UnitSpec, a: Any, b: Any) -> list[_Block]:
    left, right = dict(named_leaves(a)), dict(named_leaves(b))
    parts: dict[tuple[str, ...], list[tuple[Any, Any]]] = {}
    for piece in pieces_of(spec):
        if piece.grouped:
            names = tuple(str(dim.group) for dim in piece.grouped)
            pair = piece.cut(left[piece.path]), piece.cut(right[piece.path])
            parts.setdefault(names, []).append(pair)
    return [
        _Block(names, *(jnp.concatenate(side) for side in zip(*pairs, strict=True)))
        for names, pairs in parts.items()
    ]


def _distance(a: Any, b: Any) -> jax.Array:
    others = dict(named_leaves(b))
    squares = [jnp.sum(jnp.square(leaf - others[path])) for path, leaf in named_leaves(a)]
    return jnp.asarray(sum(squares), jnp.result_type(jnp.float32, *squares))


def _prepared(tree: Any, objective: Objective) -> Any:
    """Scales each leaf so that the objective becomes the squared distance, as on the host."""
    leaves, treedef = jax.tree.flatten(tree)
    leaves = [_real(path, leaf) for path, leaf in named_leaves(tree)]
    # The library's own preparation of ones: the factor of each leaf, and a check of the objective.
    ones = treedef.unflatten([np.ones(()) for _ in leaves])
    factors = jax.tree.leaves(prepared(ones, objective))
    if objective == "standardised":
        return treedef.unflatten(map(_standardised, leaves))
    return treedef.unflatten(
        [leaf * float(factor) for leaf, factor in zip(leaves, factors, strict=True)]
    )


def _real(path: tuple[str, ...], leaf: Any) -> jax.Array:
    leaf = jnp.asarray(leaf)
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        raise ValueError(
            f"{'/'.join(path) or 'params'} is complex: distances are of real numbers; pass real "
            "and imaginary parts as two leaves."
        )
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return jnp.zeros(leaf.shape)
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))


def _standardised(leaf: jax.Array) -> jax.Array:
    if leaf.size < 2:
        return jnp.zeros_like(leaf)
    deviation = leaf.std(ddof=1)
    # The mean of equal entries is not always exactly them.
    is_spread = deviation > 4 * jnp.finfo(leaf.dtype).eps * jnp.abs(leaf).max()
    scale = jnp.where(is_spread, deviation, 1.0) * leaf.size**0.5
    return jnp.where(is_spread, (leaf - leaf.mean()) / scale, 0.0)
