"""What each leaf of an optimizer's state is made of, found by running the optimizer.

A leaf that starts as the parameters is a copy of them. All others are told by what they become when
every entry of the gradient is multiplied by a factor of its own: a leaf of degree d by the powers
of these factors.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pfn_optax.growth.changes import PARAMETERS, Kind
from pfn_optax.growth.labels import Tried, state_leaves
from pfn_optax.paths import named_leaves

# Of fields that are not reached in a few steps.
KNOWN_FIELDS = {
    **dict.fromkeys(
        "mu trace acc_grads momentum exp_avg updates diff_updates_memory".split(),
        Kind("gradients"),
    ),
    **dict.fromkeys(
        "nu nu_max sum_of_squares exp_avg_sq".split(), Kind("gradients", 2.0, is_odd=False)
    ),
    **dict.fromkeys("params z slow init_params".split(), PARAMETERS),
    "diff_params_memory": Kind("differences"),
}

# Gradients so small that nothing is clipped; of usual size, above the epsilon of what is
# normalised; and large.
_SCALES = (1e-4, 1.0, 1e4)
_DEGREES = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0)
# By what the gradients are multiplied from step to step: what is made of differences moves too.
_STEPS = (1.0, -0.7, 1.3, 0.6, -1.1, 0.8, 1.2, -0.9) * 2


def state_kinds(
    optimizer: Any, params: Any, *, extra_args: Mapping[str, Any] | None = None
) -> dict[str, Kind]:
    """Finds what the leaves of an optimizer's state are made of.

    The optimizer takes a few steps on parameters and gradients drawn at random, with every entry
    of the gradients multiplied by a factor of its own, with their signs changed, and with other
    parameters. What is found is exact for what an optimizer does entry by entry; where it does
    more (a trust ratio, weight decay before the momentum), the power with which a leaf grows is
    fitted to its entries, at large gradients. The trial has the sizes of the parameters and
    takes the memory of four states.

    Args:
        optimizer: an optax optimizer.
        params: its parameters; only shapes and dtypes are read.
        extra_args: further arguments of its `update`.

    Returns:
        By the name of the leaf, "0/mu/Dense_0/kernel"; without those that cannot be told. They do
        not depend on sizes: found once, they serve all growth of a run as `kinds`.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from pfn_optax.growth import state_kinds
        >>> kinds = state_kinds(optax.adam(0.1), {"w": jnp.ones(3)})
        >>> kinds["0/mu/w"].degree, kinds["0/nu/w"].degree, kinds["0/nu/w"].is_odd
        (1.0, 2.0, False)
    """
    draw = np.random.default_rng(0)
    own = Tried(optimizer, isinstance(params, optax.LookaheadParams))
    shapes = params.fast if own.takes_pair else params
    init = jax.jit(own.init)

    @jax.jit
    def run(params: Any, gradients: Any, state: Any, weight: float) -> Any:
        gradients = jax.tree.map(lambda leaf: _times(leaf, weight), gradients)
        return own.update(gradients, state, params, **(extra_args or {}))[1]

    def drawn(least: float, most: float, signs: tuple[int, ...] = (1,)) -> Any:
        def values(leaf: Any) -> Any:
            entries = draw.uniform(least, most, np.shape(leaf)) * draw.choice(signs, np.shape(leaf))
            return jnp.asarray(entries, leaf.dtype)

        return jax.tree.map(lambda leaf: values(leaf) if _is_inexact(leaf) else leaf, shapes)

    first, factors = drawn(0.5, 2, (-1, 1)), drawn(1.5, 3)
    gradients = drawn(0.5, 2, (-1, 1))
    other = jax.tree.map(_times, first, factors)
    start, other_start = (_arrays(init(params)) for params in (first, other))
    leaves = state_leaves(optimizer, params, jax.eval_shape(init, first))
    by_path = {path: np.asarray(leaf) for path, leaf in named_leaves(factors)}
    kinds: dict[str, Kind] = {}
    for number, leaf in enumerate(leaves):
        if leaf.path in by_path and _is_copy(
            start[number], other_start[number], by_path[leaf.path]
        ):
            kinds[leaf.name] = PARAMETERS
    open_leaves = {
        number
        for number, leaf in enumerate(leaves)
        if leaf.path in by_path and leaf.name not in kinds and _is_inexact(start[number])
    }
    near: dict[str, Kind] = {}
    for scale in _SCALES:
        if not open_leaves:
            break
        small = jax.tree.map(lambda leaf, scale=scale: _times(leaf, scale), gradients)
        runs = [
            (first, small),
            (first, jax.tree.map(_times, small, factors)),
            (first, jax.tree.map(lambda leaf: _times(leaf, -1), small)),
            (other, small),
        ]
        states = [init(params) for params, _ in runs]
        waiting = set(open_leaves)
        for weight in _STEPS:
            states = [run(*pair, state, weight) for pair, state in zip(runs, states, strict=True)]
            results = [_arrays(state) for state in states]
            # A leaf is judged at the first step that moves it: later ones may mix several steps.
            moved = {n for n in waiting if not np.array_equal(results[0][n], start[n])}
            for number in moved:
                leaf = leaves[number]
                run_of = _Runs(
                    start[number].astype(np.float64),
                    other_start[number].astype(np.float64),
                    *(result[number].astype(np.float64) for result in results),
                )
                factor = by_path[leaf.path or ()]
                tolerance = max(64 * float(jnp.finfo(start[number].dtype).eps), 1e-6)
                kind = _kind_of(run_of, factor, tolerance)
                if kind is not None:
                    kinds[leaf.name] = kind
                    open_leaves.discard(number)
                elif (guess := _near_kind(run_of, factor)) is not None:
                    near[leaf.name] = guess
            waiting -= moved
            if not waiting:
                break
    return {**near, **kinds}


def known_kinds(
    optimizer: Any,
    params: Any,
    state: Any,
    *,
    given: Mapping[str, Kind],
    extra_args: Mapping[str, Any] | None = None,
) -> dict[str, Kind]:
    """What the caller says of the leaves of a state and, if that is not all, what is found.

    Args:
        optimizer: an optax optimizer.
        params: its parameters.
        state: its state.
        given: by the name of a leaf or of its field; goes before what is found.
        extra_args: as for `state_kinds`.

    Returns:
        By the name of the leaf.
    """
    named = {
        leaf.name: given.get(leaf.name, given.get(leaf.field))
        for leaf in state_leaves(optimizer, params, state)
        if leaf.path is not None
    }
    is_complete = all(kind is not None for kind in named.values())
    found = {} if is_complete else state_kinds(optimizer, params, extra_args=extra_args)
    return found | {name: kind for name, kind in named.items() if kind is not None}


class _Runs(NamedTuple):
    """A leaf at the start, and what it becomes in the runs; float64."""

    start: np.ndarray
    other_start: np.ndarray
    base: np.ndarray
    scaled: np.ndarray
    negative: np.ndarray
    other: np.ndarray


def _kind_of(runs: _Runs, factors: np.ndarray, tolerance: float) -> Kind | None:
    """What a leaf is made of, if it is exactly so."""

    def is_close(left: np.ndarray, right: np.ndarray) -> bool:
        return bool(np.all(np.abs(left - right) <= tolerance * np.abs(right)))

    start, other_start, base, scaled, negative, other = runs
    if base.shape[base.ndim - factors.ndim :] != factors.shape:
        return None
    if not is_close(other - other_start, base - start):
        only_params = is_close(scaled, base) and is_close(negative, base)
        return PARAMETERS if only_params and is_close(other, base * factors) else None
    base, scaled, negative = base - start, scaled - start, negative - start
    for degree in _DEGREES:
        if is_close(scaled, base * factors**degree):
            for is_odd, sign in ((True, -1), (False, 1)):
                if is_close(negative, sign * base):
                    return Kind("gradients", degree, is_odd)
    return None


def _near_kind(runs: _Runs, factors: np.ndarray) -> Kind | None:
    """The power by which a leaf grows with the factors, apart from what all of it is scaled by."""
    start, _, base, scaled, negative, _ = runs
    if base.shape[base.ndim - factors.ndim :] != factors.shape or factors.size < 3:
        return None
    base, scaled, negative = base - start, scaled - start, negative - start
    used = (base != 0) & (scaled != 0)
    if used.sum() < 3:
        return None
    slope = np.polyfit(
        np.log(np.broadcast_to(factors, base.shape)[used]), np.log(np.abs(scaled / base)[used]), 1
    )[0]
    degree = min(_DEGREES, key=lambda degree: abs(degree - slope))
    agreement = np.mean(np.sign(negative[used]) == np.sign(base[used]))
    if abs(degree - slope) > 0.2 or 0.2 < agreement < 0.8:
        return None
    return Kind("gradients", degree, bool(agreement < 0.5))


def _is_copy(start: np.ndarray, other: np.ndarray, factors: np.ndarray) -> bool:
    if not _is_inexact(start) or not np.any(start) or start.shape != factors.shape:
        return False
    tolerance = 8 * float(jnp.finfo(start.dtype).eps)
    expected = start.astype(np.float64) * factors
    return bool(np.all(np.abs(other - expected) <= tolerance * np.abs(expected)))


def _times(leaf: Any, factor: Any) -> Any:
    return (leaf * factor).astype(leaf.dtype) if _is_inexact(leaf) else leaf


def _is_inexact(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _arrays(state: Any) -> list[np.ndarray]:
    """The leaves as arrays; random keys have no numbers."""
    return [
        np.zeros(0) if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) else np.asarray(leaf)
        for leaf in map(_as_array, jax.tree.leaves(state))
    ]


def _as_array(leaf: Any) -> Any:
    return leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
