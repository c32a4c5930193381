"""Several networks brought to one representation, each in turn to the mean of the others."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from pfn_optax.align.alignment import (
    Alignment,
    AlignmentStatus,
    compared,
    precision_of,
    seed_of,
)
from pfn_optax.align.assignment import best_assignment
from pfn_optax.align.blocks import Matching, Permutations
from pfn_optax.align.correlation import Activations, CrossCorrelation, correlations
from pfn_optax.align.objective import Objective, squared_distance
from pfn_optax.align.search import Method, Options, search
from pfn_optax.units import UnitSpec

Propose = Callable[[int, Sequence[Permutations], int], tuple[Permutations, bool]]
"""From a network, the present permutations and a number: better ones, and whether they are."""


def align_many(
    models: Sequence[Any],
    spec: UnitSpec,
    *,
    method: Method = "coordinate",
    objective: Objective = "squared",
    key: jax.Array | None = None,
    beam_width: int = 10,
    restarts: int = 1,
    max_sweeps: int = 100,
    rescale: bool = False,
    activations: Activations | None = None,
    check: tuple[Any, ...] | None = None,
) -> tuple[Alignment, ...]:
    r"""Permutes the hidden units of several networks so that they come near to each other.

    In random order, each network is matched to the mean of the others, until none moves; a move
    that does not bring it nearer is not made, so that the sum of the distances between all pairs
    never rises. The first network is the frame: in the end it is where it was.

    Args:
        models: two networks or more: trees of the same structure.
        spec: the groups of hidden units.
        method: see `align`. With `"activation"` each network moves to the largest sum of
            correlations with all others.
        objective: see `distance`; the mean is taken of the networks as the objective scales them.
        key: random key.
        beam_width: of `"beam"`.
        restarts: of `"coordinate"`.
        max_sweeps: largest number of rounds over all groups of one match, and over all networks.
        rescale: whether to match at balanced scales and to move all to the first one's.
        activations: of `"activation"`: for each batch one mapping per network.
        check: `(function, *args)`, to prove the spec on, see `align`.

    Returns:
        One alignment per network: `before` and `after` are its distance to the mean of the others,
        `trace` the sum of the distances between all pairs after each round (the same for all), and
        `CONVERGED` means that no network moved in the last round.

    Raises:
        UnitSpecError: if check finds that the spec changes the function.
        ValueError: if there are fewer than two networks, and as for `align`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pfn_optax.align import align_many
        >>> from pfn_optax.units import unit_spec
        >>> a = {"in": jnp.asarray([[1.0, 2.0, 3.0]]), "out": jnp.asarray([[4.0], [5.0], [6.0]])}
        >>> spec = unit_spec(lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"], a, jnp.ones((1, 1)))
        >>> models = [a, *(spec.permute(a, {"in": order}) for order in ([2, 0, 1], [1, 0, 2]))]
        >>> [alignment.after for alignment in align_many(models, spec)]
        [0.0, 0.0, 0.0]

    Reference:
        Ainsworth, Hayase, Srinivasa, "Git Re-Basin", ICLR 2023, algorithm 3 (MergeMany).
    """
    if len(models) < 2:
        raise ValueError(f"align_many needs two networks or more, got {len(models)}.")
    options = Options(method, beam_width, restarts, max_sweeps)
    names = [f"models[{number}]" for number in range(len(models))]
    trees, balances = compared(
        names, models, spec, objective=objective, rescale=rescale, check=check
    )
    if method == "activation":
        propose = _by_activations(spec, correlations(spec, activations, len(models)))
    else:
        propose = _by_weights(options, spec, trees, precision_of(*models), seed_of(key))
    identity = {group.name: np.arange(group.size, dtype=np.int32) for group in spec.groups}
    found: list[Permutations] = [identity] * len(models)
    draw = np.random.default_rng([*seed_of(key), len(models)])
    trace, num_matches, is_settled = [_sum_over_pairs(trees)], 0, False
    while not is_settled and len(trace) <= max_sweeps:
        is_settled = True
        for number in draw.permutation(len(models)):
            found[number], has_moved = propose(int(number), found, num_matches)
            num_matches += 1
            is_settled = is_settled and not has_moved
        moved = [spec.permute(tree, own) for tree, own in zip(trees, found, strict=True)]
        trace.append(_sum_over_pairs(moved))
    found = _in_the_frame_of_the_first(found)
    moved = [spec.permute(tree, own) for tree, own in zip(trees, found, strict=True)]
    alignments = []
    for number, (model, own, balance) in enumerate(zip(models, found, balances, strict=True)):
        scales = {name: scale[own[name]] / balances[0][name] for name, scale in balance.items()}
        alignments.append(
            Alignment(
                params=spec.rescale(spec.permute(model, own), scales),
                permutations=own,
                scales=scales,
                before=squared_distance(_mean_of_others(trees, number), trees[number]),
                after=squared_distance(_mean_of_others(moved, number), moved[number]),
                trace=tuple(trace),
                status=AlignmentStatus.CONVERGED if is_settled else AlignmentStatus.STOPPED,
                spec=spec,
            )
        )
    return tuple(alignments)


def _by_weights(
    options: Options, spec: UnitSpec, trees: Sequence[Any], precision: Any, seed: Sequence[int]
) -> Propose:
    def propose(
        number: int, found: Sequence[Permutations], num_matches: int
    ) -> tuple[Permutations, bool]:
        others = _mean_of_others(
            [spec.permute(tree, own) for tree, own in zip(trees, found, strict=True)], number
        )
        matching = Matching(spec, others, trees[number], precision)
        best = search(options, spec, matching, found[number], [*seed, num_matches])
        gain = matching.value(found[number]) - matching.value(best.permutations)
        if gain <= matching.tolerance:
            return found[number], False
        return best.permutations, True

    return propose


def _by_activations(spec: UnitSpec, table: CrossCorrelation) -> Propose:
    def propose(
        number: int, found: Sequence[Permutations], num_matches: int
    ) -> tuple[Permutations, bool]:
        best, has_moved = dict(found[number]), False
        for group in spec.groups:
            name, units = group.name, np.arange(group.size)
            tables = [
                table.between(name, other, number)[own[name]]
                for other, own in enumerate(found)
                if other != number
            ]
            profit = np.sum(tables, axis=0)
            columns = best_assignment(profit)
            gain = np.sum(profit[units, columns] - profit[units, best[name]])
            if gain > 1e-12 * group.size * len(found):
                best[name], has_moved = columns, True
        return best, has_moved

    return propose


def _mean_of_others(trees: Sequence[Any], number: int) -> Any:
    others = [tree for k, tree in enumerate(trees) if k != number]
    return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *others)


def _sum_over_pairs(trees: Sequence[Any]) -> float:
    """Sum of the squared distances of all pairs: that to the mean, times the number of trees."""
    mean = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *trees)
    return len(trees) * sum(squared_distance(tree, mean) for tree in trees)


def _in_the_frame_of_the_first(found: Sequence[Permutations]) -> list[Permutations]:
    """The same representations with the units in the order of the first network's own."""
    inverse = {name: np.argsort(own) for name, own in found[0].items()}
    return [{name: own[name][inverse[name]] for name in own} for own in found]
