"""Proves a spec on the function itself: however its units are moved, it computes the same."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.paths import named_leaves
from pfn_optax.precision import double_precision
from pfn_optax.tracing import Equation, Traced, interpret, trace
from pfn_optax.units.axes import axes_of
from pfn_optax.units.copying import copy_units
from pfn_optax.units.spec import Group, Member, UnitSpec, UnitSpecError, by_path


def check_spec(
    spec: UnitSpec,
    function: Callable[..., Any],
    params: Any,
    *args: Any,
    key: jax.Array | None = None,
    tolerance: float = 1e-10,
) -> None:
    """Checks that permuting, rescaling, flipping and splitting leave the outputs as they are.

    All groups are permuted at once, then all scalable ones rescaled, then all units of the odd ones
    flipped or not at random, in float64. Of those that can be split half of the units give way to
    copies of one of the others, and it must not matter of which one and how the copies share what
    is read of them; constants that depend on the number of units (1 / sqrt(n) before a layer)
    cannot be seen here. The
    parameters are moved at random first, because zero biases, unit scales and zero-initialised
    heads would hide mistakes. A model that insists on a lower precision is held to half of its
    digits.

    Args:
        spec: the spec.
        function: `function(params, *args)`, deterministic.
        params: the parameters; of abstract ones (`jax.ShapeDtypeStruct`) the values are drawn.
        *args: its other arguments; abstract ones are drawn too, integers are zero.
        key: random key of the draws.
        tolerance: largest difference allowed, relative to the largest output.

    Raises:
        UnitSpecError: if an output changes; names the group, its leaves and axes, what tracing
            finds instead, and what to do.
        ValueError: if params or args have NaN entries.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.units import Group, Member, UnitSpec, check_spec
        >>> params = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}
        >>> wrong = UnitSpec(
        ...     (Group("in", 4, (Member(("in",), 1),)),), ((("in",), (3, 4)), (("out",), (4, 2)))
        ... )
        >>> check_spec(wrong, lambda p, x: x @ p["in"] @ p["out"], params, jnp.ones((1, 3)))
        Traceback (most recent call last):
        ...
        pfn_optax.units.spec.UnitSpecError: permuting group 'in' (in axis 1) changes the output ...
    """
    for name, tree in (("params", params), *((f"argument {i + 1}", a) for i, a in enumerate(args))):
        _require_numbers(name, tree)
    draw = np.random.default_rng(_seed(key))
    with double_precision():
        params, *inputs = _drawn(function, (params, *args), draw)
        run = jax.jit(function)
        outputs = _numbers(run(params, *inputs))
        allowed = max(tolerance, _half_of_the_digits(trace(function, params, *inputs)))
        if not any(np.isfinite(leaf).any() for leaf in outputs):
            raise UnitSpecError(
                "the outputs are not finite at random parameters, so nothing can be checked: look "
                "for infinite inputs and logarithms of negative numbers, or pass check=False."
            )

        def require_same(change: str, groups: tuple[Group, ...], first: Any, second: Any) -> None:
            error = _difference(run(first, *inputs), run(second, *inputs))
            if not error <= allowed:
                names = ", ".join(map(_described, groups))
                raise UnitSpecError(
                    f"{change} group {names} changes the output by {error:.2g} of its size, "
                    f"{allowed:.2g} are allowed."
                    + _advice(change, groups, function, params, *inputs)
                )

        def require_each_same(
            change: str,
            groups: tuple[Group, ...],
            draws: dict[str, Any],
            apply: Callable[[Any, dict[str, Any]], Any],
            before: Callable[[Any, dict[str, Any]], Any] = lambda params, draws: params,
        ) -> None:
            try:
                require_same(change, groups, before(params, draws), apply(params, draws))
            except UnitSpecError:
                for group in groups:
                    own = {group.name: draws[group.name]}
                    require_same(change, (group,), before(params, own), apply(params, own))
                raise

        permutations = {group.name: _cycle(draw, group.size) for group in spec.groups}
        require_each_same("permuting", spec.groups, permutations, spec.permute)
        scalable = tuple(group for group in spec.groups if group.is_scalable)
        scales = {group.name: draw.uniform(0.5, 2, group.size) for group in scalable}
        require_each_same("rescaling", scalable, scales, spec.rescale)
        odd = tuple(group for group in spec.groups if group.is_odd)
        signs = {group.name: _some_flipped(draw, group.size) for group in odd}
        require_each_same("flipping", odd, signs, spec.flip)
        splittable = tuple(group for group in spec.groups if group.is_splittable)
        crowds = {group.name: _crowds(draw, group.size) for group in splittable}
        require_each_same(
            "splitting",
            splittable,
            crowds,
            lambda params, crowds: _crowded(spec, params, crowds, 0),
            lambda params, crowds: _crowded(spec, params, crowds, 1),
        )


def _cycle(draw: np.random.Generator, size: int) -> np.ndarray:
    """A permutation that moves every unit, so that no mistake can hide."""
    order = draw.permutation(size)
    cycle = np.empty_like(order)
    cycle[order] = np.roll(order, 1)
    return cycle


def _some_flipped(draw: np.random.Generator, size: int) -> np.ndarray:
    """Signs, at least one of them -1, so that no mistake can hide."""
    signs = draw.choice([-1, 1], size)
    signs[draw.integers(size)] = -1
    return signs


def _crowds(draw: np.random.Generator, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Two layers of the same units, of which another has many copies, with shares that sum to 1."""
    different = draw.permutation(size)[: (size + 1) // 2]
    crowds = []
    for crowded in (0, len(different) - 1):
        copies = np.append(different, np.full(size - len(different), different[crowded]))
        shares = np.append(np.ones(len(different)), draw.uniform(-1, 1, size - len(different)))
        shares[crowded] -= shares[len(different) :].sum()
        crowds.append((copies, shares))
    return crowds


def _crowded(spec: UnitSpec, params: Any, crowds: dict[str, Any], which: int) -> Any:
    copies, shares = (
        {name: crowd[which][part] for name, crowd in crowds.items()} for part in (0, 1)
    )
    return copy_units(spec, params, copies, shares)[0]


def _seed(key: jax.Array | None) -> Any:
    return 0 if key is None else np.asarray(jax.random.key_data(key)).ravel()


def _require_numbers(name: str, tree: Any) -> None:
    for path, leaf in named_leaves(tree):
        has_values = _is_inexact(leaf) and not isinstance(leaf, jax.ShapeDtypeStruct)
        if has_values and np.isnan(np.asarray(leaf)).any():
            raise ValueError(
                f"{'/'.join((name, *path))} has NaN entries: a check needs numbers; pass others, "
                "or check=False."
            )


def _is_inexact(leaf: Any) -> bool:
    return jnp.issubdtype(getattr(leaf, "dtype", np.result_type(type(leaf))), jnp.inexact)


def _drawn(
    function: Callable[..., Any], arguments: tuple[Any, ...], draw: np.random.Generator
) -> tuple[Any, ...]:
    """Values for the arguments in float64, or in their own precision if the function insists."""
    leaves, treedef = jax.tree.flatten(arguments)
    num_params = len(jax.tree.leaves(arguments[0]))
    values = [
        (_moved if number < num_params else _filled)(leaf, draw)
        for number, leaf in enumerate(leaves)
    ]
    double = [
        value.astype(np.promote_types(value.dtype, np.float64)) if _is_inexact(value) else value
        for value in values
    ]
    try:
        jax.eval_shape(function, *treedef.unflatten(double))
    except TypeError:  # dtypes that must be equal, as those of the carry of a loop
        return treedef.unflatten(values)
    return treedef.unflatten(double)


def _moved(leaf: Any, draw: np.random.Generator) -> Any:
    """A parameter away from where it is; what is positive stays so."""
    if not _is_inexact(leaf):
        return _filled(leaf, draw)
    noise = draw.uniform(0.5, 1.5, (2, *np.shape(leaf)))
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        leaf = np.asarray(leaf)
        size = np.sqrt(np.mean(np.abs(leaf.astype(complex)) ** 2)) if leaf.size else 0
        moved = leaf * noise[0] + 0.1 * (size or 1) * noise[1]
    elif leaf.ndim < 2:
        moved = noise[0]  # a variance must be positive
    else:
        moved = draw.standard_normal(leaf.shape) * (leaf.size // leaf.shape[-1]) ** -0.5
    return moved.astype(leaf.dtype)


def _filled(leaf: Any, draw: np.random.Generator) -> Any:
    """An argument: its values where it has any."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return np.asarray(leaf) if _is_inexact(leaf) else leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), leaf.shape)
    is_inexact = _is_inexact(leaf)
    return (draw.standard_normal(leaf.shape) if is_inexact else np.zeros(leaf.shape)).astype(
        leaf.dtype
    )


def _half_of_the_digits(traced: Traced) -> float:
    """Square root of the coarsest rounding of the parameters; 0 if all of it is in float64."""
    kinds: set[Any] = set()

    def apply(equation: Equation, depends: list[bool]) -> list[bool]:
        if any(depends):
            kinds.update(_dtypes(equation))
        return [any(depends)] * len(equation.outputs)

    is_params = [path[0] == "0" for path in traced.paths]
    interpret(traced.program, is_params, constant=lambda _: False, apply=apply)
    coarsest = max((float(jnp.finfo(kind).eps) for kind in kinds), default=0.0)
    return coarsest**0.5 if coarsest > jnp.finfo(jnp.float64).eps else 0.0


def _dtypes(equation: Equation) -> Iterator[Any]:
    """What an equation, or the body of a loop, rounds to."""
    for variable in equation.outputs:
        if jnp.issubdtype(variable.dtype, jnp.inexact):
            yield variable.dtype
    for body in equation.bodies:
        for inner in body.equations:
            yield from _dtypes(inner)


def _numbers(tree: Any) -> list[np.ndarray]:
    return [
        np.asarray(leaf)
        for leaf in jax.tree.leaves(tree)
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    ]


def _difference(expected: Any, received: Any) -> float:
    """The largest difference relative to the largest entry, leaf by leaf."""
    worst = 0.0
    for left, right in zip(_numbers(expected), _numbers(received), strict=True):
        finite = np.isfinite(left)
        if not np.array_equal(finite, np.isfinite(right)):
            return np.inf
        if finite.any():
            gaps = np.abs(np.where(finite, left, 0) - np.where(finite, right, 0.0))
            worst = max(worst, float(gaps.max() / (np.abs(left[finite]).max() or 1.0)))
    return worst


def _described(group: Group) -> str:
    return f"{group.name!r} ({', '.join(map(str, group.members))})"


def _advice(
    change: str,
    groups: tuple[Group, ...],
    function: Callable[..., Any],
    params: Any,
    *args: Any,
) -> str:
    """What tracing finds other than what a group says, and what to do."""
    if len(groups) != 1:
        return " Each of them passes alone: see whether two of them move the same entries."
    own = {member.place: member for member in groups[0].members}
    found = [
        {member.place: member for member in group.members}
        for group in axes_of(trace(function, params, *args)).spec.groups
    ]
    traced = max(found, key=lambda members: len(own.keys() & members.keys()), default={})
    if not own.keys() & traced.keys():
        return (
            " Tracing finds no group there: something that reads these units keeps them in their "
            "order. Leave the group out."
        )
    missing, wrong = _listed(traced.keys() - own.keys()), _listed(own.keys() - traced.keys())
    if missing or wrong:
        return (
            (f" It lacks {missing}." if missing else "")
            + (f" These are not in it: {wrong}." if wrong else "")
            + " Correct these members, or take the group that unit_spec() finds."
        )
    what = {"rescaling": "exponent", "flipping": "flips", "splitting": "is_read"}.get(change)
    others = [
        f"{place} has {what} {getattr(own[place], what)}, tracing finds {getattr(member, what)}"
        for place, member in sorted(traced.items(), key=lambda item: by_path(item[0]))
        if what and getattr(own[place], what) != getattr(member, what)
    ]
    if others:
        return f" Its members are right, what is done to them is not: {'; '.join(others)}."
    return (
        " Tracing finds the same group: raise the tolerance if this may be rounding, and see "
        "whether the function gives the same output twice."
    )


def _listed(members: Collection[Member]) -> str:
    return ", ".join(map(str, sorted(members, key=by_path)))
