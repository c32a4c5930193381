"""Alignment during training: an optax wrapper that keeps a network near a reference.

The story of one step:

    gradients -> inner optimizer -> [every N steps: new parameters -> matching in the step ->
    parameters, moments and all that lies like them, permuted] -> updates
"""

import functools
import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from pfn_optax.align.in_step import StepMatch, match
from pfn_optax.align.objective import Objective, distance, require_same_leaves
from pfn_optax.paths import Path, named_leaves
from pfn_optax.units import Group, Member, UnitSpec
from pfn_optax.when import when


class WithAlignmentState(NamedTuple):
    """State of `with_alignment`.

    Attributes:
        alignment_step: i32[], steps taken.
        alignment_matches: i32[], matchings done.
        alignment_before: f32[], the objective before the last matching.
        alignment_objective: f32[], the objective after it.
        alignment_move: i32[size] by group, the permutation made in this very step, 0, 1, 2, ... in
            all others: to move what lies outside of the optimizer (an average of the parameters).
        alignment_permutations: i32[size] by group, all moves in one: unit `i` is the unit
            `permutation[i]` of a run without alignment.
        inner_state: state of the wrapped optimizer.
    """

    alignment_step: jax.Array
    alignment_matches: jax.Array
    alignment_before: jax.Array
    alignment_objective: jax.Array
    alignment_move: dict[str, jax.Array]
    alignment_permutations: dict[str, jax.Array]
    inner_state: optax.OptState


def with_alignment(
    optimizer: optax.GradientTransformation,
    reference: Any,
    spec: UnitSpec,
    *,
    every: int = 100,
    objective: Objective = "squared",
    max_sweeps: int = 100,
) -> optax.GradientTransformationExtraArgs:
    r"""Wraps an optimizer: every N steps the network moves to the representation nearest another.

    With the optimizer's own updates $u_t$, in a step that is a multiple of `every`

    $$\pi = \arg\min_\pi d(a, \pi(\theta_t + u_t)), \qquad
    \theta_{t+1} = \pi(\theta_t + u_t), \qquad m_{t+1} = \pi(m_t),$$

    where a is the reference and m all that lies like the parameters in the optimizer's state. The
    function stays the same, and so does the training: an optimizer that treats all entries of a
    leaf alike commutes with permuting them. Only permutations do; a rescaling would change the
    steps that follow, and is not made.

    The update returned is $\pi(\theta_t + u_t) - \theta_t$, so that `optax.apply_updates` gets
    there up to one rounding of the difference and one of the sum: at 16 bits, keep a copy of the
    parameters at 32 or use `permute_state` on the host, which is exact. Nothing may change the
    updates afterwards: wrap the whole chain. `optax.MultiSteps` and `optax.apply_if_finite` may
    be around it, masks within it.

    The matching runs inside of the compiled step (see `pfn_optax.align.in_step`), and only in the
    steps that need it, also under `jax.vmap`. Its assignment problems are solved by optax on the
    device; for layers of many hundred units scipy on the host is faster, see `permute_state`.

    Args:
        optimizer: any optax optimizer or chain whose state lies like the parameters, or does not
            depend on the units at all.
        reference: the parameters to stay near to: a tree of the same structure, held fixed.
        spec: the groups of hidden units, from `unit_spec`.
        every: steps between matchings; may be traced (`optax.inject_hyperparams`).
        objective: what is made small, see `distance`.
        max_sweeps: largest number of rounds over all groups, per matching; may be traced.

    Returns:
        A transformation with state `WithAlignmentState`; extra arguments are passed to `optimizer`.

    Raises:
        ValueError: from here, if an option is out of range or the reference does not fit the spec
            or has NaN or complex entries; from `init` and `update`, if the parameters do not fit
            the reference, or are missing, or the state holds what cannot follow a permutation.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from pfn_optax.align import with_alignment
        >>> from pfn_optax.units import unit_spec
        >>> a = {"in": jnp.asarray([[1.0, 2.0, 3.0]]), "out": jnp.asarray([[4.0], [5.0], [6.0]])}
        >>> spec = unit_spec(lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"], a, jnp.ones((1, 1)))
        >>> optimizer = with_alignment(optax.adam(0.1), a, spec, every=1)
        >>> params = spec.permute(a, {"in": [2, 0, 1]})
        >>> grads = jax.tree.map(jnp.zeros_like, params)
        >>> updates, state = optimizer.update(grads, optimizer.init(params), params)
        >>> optax.apply_updates(params, updates)["in"]
        Array([[1., 2., 3.]], dtype=float32)
        >>> optax.tree.get(state, "alignment_permutations")["in"].tolist()
        [1, 2, 0]
    """
    for name, value in (("every", every), ("max_sweeps", max_sweeps)):
        if isinstance(value, numbers.Real) and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value!r}.")
    spec.permute(reference, {})  # refuses a tree that the spec was not made for
    if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(reference)):
        distance(reference, reference, objective=objective)  # refuses bad values
    inner = optax.with_extra_args_support(optimizer)
    find = functools.partial(match, reference, spec=spec, objective=objective)

    def init(params):
        inner_state = inner.init(params)
        if jax.tree.leaves(params):  # none in the placeholder of `optax.tree.map_params`
            require_same_leaves(reference, params, ("the reference", "the parameters"))
            jax.eval_shape(lambda s: permute_state(inner, s, spec, _identity(spec)), inner_state)
        return WithAlignmentState(
            alignment_step=jnp.zeros((), jnp.int32),
            alignment_matches=jnp.zeros((), jnp.int32),
            alignment_before=jnp.zeros((), jnp.float32),
            alignment_objective=jnp.zeros((), jnp.float32),
            alignment_move=_identity(spec),
            alignment_permutations=_identity(spec),
            inner_state=inner_state,
        )

    def update(updates, state, params=None, **extra_args):
        if params is None:
            raise ValueError("with_alignment permutes the parameters: call update with them.")
        require_same_leaves(reference, params, ("the reference", "the parameters"))
        updates, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        state = state._replace(
            alignment_step=optax.safe_increment(state.alignment_step),
            alignment_move=_identity(spec),
            inner_state=inner_state,
        )
        return aligned(state.alignment_step % every == 0, params, updates, state)

    @jax.jit  # compiled once also where the caller runs eagerly
    def aligned(is_due, params, updates, state):
        def move(params, carry):
            updates, state = carry
            new = optax.apply_updates(params, updates)
            found = find(new, max_sweeps=max_sweeps)
            target = spec.permute(new, found.permutations)
            return _differences(params, updates, new, target), _moved(inner, spec, state, found)

        return when(is_due, move, params, (updates, state))

    return optax.GradientTransformationExtraArgs(init, update)


def permute_state(
    optimizer: optax.GradientTransformation, state: Any, spec: UnitSpec, permutations: Any
) -> Any:
    """Permutes all that lies like the parameters in an optimizer's state (moments, averages).

    With it a loop on the host can align between steps, exactly and by any method of `align`:

        alignment = align(reference, params, spec)
        params = alignment.params
        state = permute_state(optimizer, state, spec, alignment.permutations)

    Args:
        optimizer: what the state is of.
        state: its state.
        spec: the groups of hidden units of the parameters.
        permutations: for each group to be permuted, i32[size], see `UnitSpec.permute`.

    Returns:
        A state like it. Counts, learning rates and the like stay, and so does what is reduced to
        one number per leaf.

    Raises:
        ValueError: if a leaf has units of a permuted group and yet another shape than the
            parameter (the factored moments of `optax.adafactor`), so that it cannot follow.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from pfn_optax.align import permute_state
        >>> from pfn_optax.units import unit_spec
        >>> params = {"in": jnp.asarray([[1.0, 2.0]]), "out": jnp.asarray([[3.0], [4.0]])}
        >>> spec = unit_spec(lambda p, x: x @ p["in"] @ p["out"], params, jnp.ones((1, 1)))
        >>> optimizer = optax.sgd(0.1, momentum=0.9)
        >>> _, state = optimizer.update(params, optimizer.init(params))
        >>> optax.tree.get(permute_state(optimizer, state, spec, {"in": [1, 0]}), "trace")["in"]
        Array([[2., 1.]], dtype=float32)
    """
    shapes = dict(spec.leaves)
    own = _leaf_specs(spec)

    def permuted(tree: Any) -> Any:
        leaves, treedef = jax.tree.flatten(tree)
        moved = [
            _permuted_leaf(own[path], path, shapes[path], leaf, permutations)
            if path in own and jnp.size(leaf) > 1
            else leaf
            for path, leaf in named_leaves(tree)
        ]
        assert len(moved) == len(leaves)
        return treedef.unflatten(moved)

    # The whole tree at once: by leaf, masked ones would not fit.
    return optax.tree.map_params(optimizer, permuted, state, is_leaf=lambda _: True)


def _permuted_leaf(
    spec: UnitSpec, path: Path, shape: tuple[int, ...], leaf: Any, permutations: Any
) -> Any:
    """Moves one leaf of a state, which may have axes of its own in front (a memory of steps)."""
    num_own = jnp.ndim(leaf) - len(shape)
    if num_own < 0 or jnp.shape(leaf)[num_own:] != shape:
        raise ValueError(
            f"the optimizer's state has shape {jnp.shape(leaf)} for {'/'.join(path) or 'params'!r} "
            f"of shape {shape}: it cannot follow when units are permuted; choose an optimizer "
            "whose state has the shapes of the parameters (of optax.adafactor, factored=False)."
        )
    names = {group.name for group in spec.groups}
    permute = functools.partial(
        spec.permute,
        permutations={name: value for name, value in permutations.items() if name in names},
    )
    for _ in range(num_own):
        permute = jax.vmap(permute)
    return permute(leaf)


def _leaf_specs(spec: UnitSpec) -> dict[Path, UnitSpec]:
    """For each leaf with hidden units a spec of it alone, as a bare array."""
    members: dict[Path, dict[Group, list[Member]]] = {}
    for group in spec.groups:
        for member in group.members:
            found = members.setdefault(member.path, {})
            found.setdefault(group, []).append(member._replace(path=()))
    shapes = dict(spec.leaves)
    return {
        path: UnitSpec(
            tuple(Group(group.name, group.size, tuple(own)) for group, own in groups.items()),
            (((), shapes[path]),),
        )
        for path, groups in members.items()
    }


def _identity(spec: UnitSpec) -> dict[str, jax.Array]:
    return {group.name: jnp.arange(group.size, dtype=jnp.int32) for group in spec.groups}


def _differences(params: Any, updates: Any, new: Any, target: Any) -> Any:
    """The updates that lead to the target; the optimizer's own where the entry is the same."""

    def difference(param, update, unmoved, moved):
        # In the precision of the updates, which may be higher than that of the parameters.
        gap = moved.astype(update.dtype) - param.astype(update.dtype)
        return jnp.where(moved == unmoved, update, gap)

    return jax.tree.map(difference, params, updates, new, target)


def _moved(
    inner: optax.GradientTransformation, spec: UnitSpec, state: WithAlignmentState, found: StepMatch
) -> WithAlignmentState:
    """The state after a matching."""
    move = found.permutations
    return state._replace(
        alignment_matches=state.alignment_matches + 1,
        alignment_before=found.before.astype(jnp.float32),
        alignment_objective=found.after.astype(jnp.float32),
        alignment_move=move,
        alignment_permutations={
            name: state.alignment_permutations[name].take(move[name]) for name in move
        },
        inner_state=permute_state(inner, state.inner_state, spec, move),
    )
