"""Moves one network to the representation in which it is nearest to another."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.align.assignment import best_assignment
from pfn_optax.align.blocks import Matching, Permutations
from pfn_optax.align.coordinate import Search
from pfn_optax.align.correlation import Activations, correlations
from pfn_optax.align.objective import (
    Objective,
    on_host,
    prepared,
    require_same_leaves,
    squared_distance,
)
from pfn_optax.align.scales import balancing_scales
from pfn_optax.align.search import Method, Options, search
from pfn_optax.units import UnitSpec, check_spec


class AlignmentStatus(enum.StrEnum):
    """How a search ended."""

    CONVERGED = "converged"
    """At a local optimum: no group can gain by moving alone."""
    STOPPED = "stopped"
    """By `max_sweeps`, before that."""
    ONE_PASS = "one pass"
    """Each group was matched once (`greedy`, `activation`); another pass might gain."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """A network moved to the representation nearest another one's.

    Attributes:
        params: the parameters, permuted and, if asked for, rescaled; their function is unchanged.
        permutations: i32[size] by group: the new unit `i` is the old unit `permutation[i]`.
        scales: positive factors f64[size] by scalable group, applied after permuting; empty unless
            asked for.
        before: the objective between the two as they were given.
        after: the objective now. With `rescale`, this, `before` and `trace` compare the two at
            their balanced scales.
        trace: the objective over the search that was best: first where it started (a random
            permutation, for a restart), then after each step: a round over all groups of
            `"coordinate"` and of the polishing of `"beam"`, a group of `"greedy"` and
            `"activation"`. Never rises within a descent.
        status: how the search ended.
        spec: the spec.
    """

    params: Any
    permutations: dict[str, np.ndarray]
    scales: dict[str, np.ndarray]
    before: float
    after: float
    trace: tuple[float, ...]
    status: AlignmentStatus
    spec: UnitSpec

    def apply(self, tree: Any) -> Any:
        """Moves another tree with the same leaves as the parameters were.

        Averages of the parameters move like them; moments of gradients only where nothing was
        rescaled.

        Args:
            tree: the tree.

        Returns:
            A tree like it.

        Raises:
            ValueError: if the tree is not one of the same model.
        """
        return self.spec.rescale(self.spec.permute(tree, self.permutations), self.scales)


def align(
    a: Any,
    b: Any,
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
) -> Alignment:
    r"""Permutes the hidden units of a network so that it comes near to another one.

    $$\min_\pi \; d(a, \pi(b))$$

    over the permutations that leave the function of b as it is. The methods:

    - `"greedy"`: one group after the other along the data flow, each by one assignment on the
      weights whose other axis is fixed. Fast, and exact in the first layer only.
    - `"beam"`: the same with the `beam_width` best partial alignments kept, each led on by its best
      assignments (Murty's algorithm), and all of them polished by coordinate descent. A wider beam
      is never worse.
    - `"coordinate"`: weight matching: one group at a time in random order, all others held, until
      no group can gain; the best of `restarts` from here and from random permutations.
    - `"activation"`: for each group the permutation with the largest sum of correlations between
      the activations of the two networks; the objective is only reported.

    Works on the host, with NumPy and scipy; what to do inside `jax.jit` is in
    `pfn_optax.align.assignment`.

    Args:
        a: the parameters that stay.
        b: those that move: a tree of the same structure.
        spec: the groups of hidden units. One from `unit_spec` has been proven on the function; one
            that was written by hand has not, see `check`.
        method: as above.
        objective: what is made small, see `distance`.
        key: random key of the order of the groups and of the restarts; without one, the same each
            time.
        beam_width: partial alignments kept, of `"beam"`.
        restarts: number of descents, of `"coordinate"`; the first starts from b as it is.
        max_sweeps: largest number of rounds over all groups, per descent.
        rescale: whether to match the networks at balanced scales (every unit's incoming weights as
            large as its outgoing ones), and to move b to a's scales in the end.
        activations: of `"activation"`: for each batch a pair, for a and b, of mappings from groups
            to f[..., size], rows alike; see `pfn_optax.units.unit_activations`.
        check: `(function, *args)` with `function(params, *args)`: proves the spec on it first, at
            the cost of a compilation (`check_spec`).

    Returns:
        The alignment.

    Raises:
        UnitSpecError: if check finds that the spec changes the function; names leaf and axis.
        ValueError: if the trees differ, do not fit the spec, have NaN or complex entries, or an
            option has a value that it cannot have.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pfn_optax.align import align
        >>> from pfn_optax.units import unit_spec
        >>> a = {"in": jnp.asarray([[1.0, 2.0, 3.0]]), "out": jnp.asarray([[4.0], [5.0], [6.0]])}
        >>> spec = unit_spec(lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"], a, jnp.ones((1, 1)))
        >>> b = spec.permute(a, {"in": [2, 0, 1]})
        >>> alignment = align(a, b, spec)
        >>> alignment.permutations["in"].tolist(), alignment.before, alignment.after
        ([1, 2, 0], 12.0, 0.0)

    Reference:
        Ainsworth, Hayase, Srinivasa, "Git Re-Basin: merging models modulo permutation symmetries",
        ICLR 2023. Li, Yosinski, Clune, Lipson, Hopcroft, "Convergent learning: do different neural
        networks learn the same representations?", ICLR 2016 (activations).
    """
    options = Options(method, beam_width, restarts, max_sweeps)
    (left, right), (own, scales) = compared(
        ("a", "b"), (a, b), spec, objective=objective, rescale=rescale, check=check
    )
    matching = Matching(spec, left, right, precision_of(a, b))
    if method == "activation":
        table = correlations(spec, activations, 2)
        found = one_by_one(
            matching,
            {name: best_assignment(table.between(name, 0, 1)) for name in matching.sizes},
        )
    else:
        found = search(options, spec, matching, matching.identity, seed_of(key))
    permutations = found.permutations
    scales = {name: scale[permutations[name]] / own[name] for name, scale in scales.items()}
    return Alignment(
        params=spec.rescale(spec.permute(b, permutations), scales),
        permutations=permutations,
        scales=scales,
        before=squared_distance(left, right),
        after=squared_distance(left, spec.permute(right, permutations)),
        trace=found.trace,
        status=status_of(options, found),
        spec=spec,
    )


def compared(
    names: Sequence[str],
    models: Sequence[Any],
    spec: UnitSpec,
    *,
    objective: Objective,
    rescale: bool,
    check: tuple[Any, ...] | None,
) -> tuple[list[Any], list[dict[str, np.ndarray]]]:
    """The networks as they are compared: checked, balanced if asked for, scaled by leaf.

    Returns:
        The trees, and the factors by which each was balanced.
    """
    trees = [on_host(name, model) for name, model in zip(names, models, strict=True)]
    for name, tree in zip(names, trees, strict=True):
        require_same_leaves(trees[0], tree, (names[0], name))
    spec.permute(trees[0], {})  # refuses a tree that the spec was not made for
    if check is not None:
        check_spec(spec, check[0], models[-1], *check[1:])
    balances = [balancing_scales(spec, tree) if rescale else {} for tree in trees]
    if rescale:
        trees = [spec.rescale(tree, own) for tree, own in zip(trees, balances, strict=True)]
    return [prepared(tree, objective) for tree in trees], balances


def one_by_one(matching: Matching, permutations: Permutations) -> Search:
    """Permutations that were found for each group alone, as a search."""
    steps = [matching.identity]
    for name, permutation in permutations.items():
        steps.append({**steps[-1], name: permutation})
    return Search(permutations, tuple(map(matching.value, steps)), is_converged=False)


def status_of(options: Options, found: Search) -> AlignmentStatus:
    """How a search ended."""
    if options.method in ("greedy", "activation"):
        return AlignmentStatus.ONE_PASS
    return AlignmentStatus.CONVERGED if found.is_converged else AlignmentStatus.STOPPED


def precision_of(*trees: Any) -> Any:
    """The precision of the products: that of the leaves, and float32 at least."""
    kinds = {getattr(leaf, "dtype", None) for tree in trees for leaf in jax.tree.leaves(tree)}
    is_double = any(kind is None or kind == jnp.float64 for kind in kinds)
    return np.float64 if is_double else np.float32


def seed_of(key: jax.Array | None) -> Sequence[int]:
    """Numbers for NumPy's generators."""
    return [0] if key is None else np.asarray(jax.random.key_data(key)).ravel().tolist()
