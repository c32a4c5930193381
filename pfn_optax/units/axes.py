"""The groups of hidden units of a traced function, on its parameters and on all its values."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from pfn_optax.paths import Path, natural_key
from pfn_optax.tracing import Traced, Variable
from pfn_optax.units.exponents import Exponents
from pfn_optax.units.factors import Slot, exponents_of, slots_of, solve
from pfn_optax.units.homogeneity import POSITIVE_SCALES
from pfn_optax.units.inference import Inference, infer
from pfn_optax.units.parity import SIGNS
from pfn_optax.units.shares import SHARES, shared_by
from pfn_optax.units.spec import Group, Member, Shape, UnitSpec, by_path
from pfn_optax.units.terms import Dim, Term, dims, stretches


class Segment(NamedTuple):
    """A stretch of an axis, seen as an array of shape `sizes` in row-major order.

    Attributes:
        groups: for each index the group whose units it runs over; None for any other.
        sizes: the size of each index.
    """

    groups: tuple[str | None, ...]
    sizes: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.sizes)


@dataclass(eq=False, frozen=True)
class Axes:
    """The axes of all values of a traced function, in terms of its groups of hidden units.

    Attributes:
        spec: the groups.
    """

    spec: UnitSpec
    _inference: Inference
    _names: dict[Dim, str]

    def of(self, variable: Variable) -> tuple[tuple[Segment, ...], ...]:
        """Returns for each axis of a value the stretches that it consists of, end to end.

        Args:
            variable: a variable of the traced program or of the body of one of its loops and
                branches. Constants, and values that the outputs do not depend on, have no units.

        Returns:
            Segments per axis; their sizes sum to the size of the axis.
        """
        terms = self._inference.axes.get(id(variable))
        if terms is None:
            return tuple((Segment((None,), (size,)),) for size in variable.shape)
        return tuple(_segments(term, self._names) for term in terms)


def _segments(term: Term, names: dict[Dim, str]) -> tuple[Segment, ...]:
    """The stretches of an axis, neighbours without units made one."""
    found: list[Segment] = []
    for stretch in stretches(term):
        groups: list[str | None] = []
        sizes: list[int] = []
        for dim in stretch:
            if groups and groups[-1] is None and names.get(dim) is None:
                sizes[-1] *= dim.size
            else:
                groups.append(names.get(dim))
                sizes.append(dim.size)
        if found and found[-1].groups == (None,) == tuple(groups):
            found[-1] = Segment((None,), (found[-1].size + math.prod(sizes),))
        else:
            found.append(Segment(tuple(groups), tuple(sizes)))
    return tuple(found)


def axes_of(traced: Traced) -> Axes:
    """Finds the groups of a traced function, and where they are on each of its values.

    Args:
        traced: the function, whose first argument are the parameters.

    Returns:
        The spec, unchecked, and the axes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pfn_optax.tracing import trace
        >>> from pfn_optax.units import axes_of
        >>> params = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}
        >>> traced = trace(lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"], params, jnp.ones((5, 3)))
        >>> axes = axes_of(traced)
        >>> axes.of(traced.program.equations[1].outputs[0])
        ((Segment(groups=(None,), sizes=(5,)),), (Segment(groups=('in',), sizes=(4,)),))
    """
    inference = infer(traced)
    exponents, unknowns = solve(inference, POSITIVE_SCALES)
    signs, _ = solve(inference, SIGNS)  # the unknowns have the same numbers
    shares, _ = solve(inference, SHARES)
    slots: dict[Dim, list[Slot]] = {}
    for slot in unknowns:
        slots.setdefault(slot[2], []).append(slot)
    # One entry on its own, read by nothing else, is a number rather than a unit.
    slots = {dim: own for dim, own in slots.items() if dim.size > 1 or len(own) > 1}
    producers = {dim: _producer(own, inference, exponents, unknowns) for dim, own in slots.items()}
    names = _names(inference, producers)

    def group(dim: Dim) -> Group:
        numbers = [unknowns[slot] for slot in slots[dim]]
        powers = exponents_of(exponents, dim, numbers) or {}
        flips = exponents_of(signs, dim, numbers) or {}
        reads = shared_by(shares, dim, numbers) or {}
        members = [
            member._replace(
                exponent=powers.get(unknowns[slot]),
                flips=bool(flips.get(unknowns[slot])),
                is_read=reads.get(unknowns[slot]),
            )
            for slot in slots[dim]
            for member in _members(inference, slot)
        ]
        return Group(names[dim], dim.size, tuple(sorted(members, key=by_path)))

    groups = sorted(map(group, names), key=lambda group: natural_key((group.name,)))
    spec = UnitSpec(tuple(groups), _leaves(traced), _warnings(inference))
    return Axes(spec, inference, names)


def _names(inference: Inference, producers: dict[Dim, Slot]) -> dict[Dim, str]:
    """Names groups by module, or by leaf where a module has several matrices."""
    matrices = Counter(path[:-1] for path, leaf in inference.leaves.items() if len(leaf.shape) > 1)
    parents = {path[:depth] for path in inference.leaves for depth in range(len(path) - 1)}
    # Within a leaf in the order of its axes and of the stretches of an axis.
    place = {slot: number for number, slot in enumerate(slots_of(inference))}
    names: dict[Dim, str] = {}
    uses: Counter[str] = Counter()
    for dim, slot in sorted(
        producers.items(), key=lambda item: (natural_key(item[1][0]), place[item[1]])
    ):
        path = slot[0]
        is_module = matrices[path[:-1]] == 1 and path[:-1] not in parents
        name = "/".join(path[:-1] if is_module else path) or "/".join(path) or "params"
        uses[name] += 1
        names[dim] = name if uses[name] == 1 else f"{name}:{uses[name]}"
    return names


def _producer(
    own: list[Slot], inference: Inference, exponents: Exponents, unknowns: dict[Slot, int]
) -> Slot:
    """The slot whose output the units are: of the matrices that are not only read the first."""
    order = {number: place for place, number in enumerate(exponents.order)}

    def key(slot: Slot) -> tuple[bool, bool, int]:
        number = unknowns[slot]
        is_read_only = number in exponents.readers - exponents.producers
        is_vector = len(inference.leaves[slot[0]].shape) < 2
        return is_read_only, is_vector, order.get(number, len(order))

    return min(own, key=key)


def _members(inference: Inference, slot: Slot) -> list[Member]:
    path, axis, group = slot
    members, start = [], 0
    for stretch in stretches(inference.axes[id(inference.leaves[path])][axis]):
        sizes = [dim.size for dim in stretch]
        members += [
            Member(path, axis, start, math.prod(sizes[:k]), math.prod(sizes[k + 1 :]))
            for k, dim in enumerate(stretch)
            if dim is group
        ]
        start += math.prod(sizes)
    return members


def _leaves(traced: Traced) -> tuple[tuple[Path, Shape], ...]:
    """Paths and shapes of all parameters, read or not."""
    found = [
        (path[1:], variable.shape)
        for path, variable in zip(traced.paths, traced.program.inputs, strict=True)
        if path[0] == "0"
    ]
    return tuple(sorted(found, key=lambda leaf: natural_key(leaf[0])))


def _warnings(inference: Inference) -> tuple[str, ...]:
    """Names the primitives without a rule and the parameters that are pinned for them."""
    found: dict[str, None] = {}
    for equation, pinned in inference.unknown:
        reached = {dim for term in pinned for dim in dims(term)}
        paths = sorted(
            {
                f"{'/'.join(path) or 'params'} axis {axis}"
                for path, leaf in inference.leaves.items()
                for axis, term in enumerate(inference.axes[id(leaf)])
                if reached & set(dims(term))
            }
        )
        if paths:
            found[
                f"no rule for the primitive {equation.primitive!r}"
                + (f" in {equation.scope}" if equation.scope else "")
                + f": the units that it reads are kept in their order ({', '.join(paths)})."
            ] = None
    return tuple(found)
