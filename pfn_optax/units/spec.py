"""Which axis of which leaf is indexed by which group of hidden units.

A *group* is a set of interchangeable hidden units: an index that several axes of several leaves
share. Permuting it in all of them at once leaves the function that the parameters define as it is;
so does rescaling it, where the exponents say how, and flipping its signs, where the units are odd.
"""

import difflib
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from pfn_optax.paths import Path, named_leaves, natural_key

Shape = tuple[int, ...]


class UnitSpecError(ValueError):
    """A spec that is none: the function changes when its groups are moved."""


class Member(NamedTuple):
    """One occurrence of a group in a leaf.

    The entries `start`, ..., `start + before * size * after - 1` of the axis, seen as an array of
    shape `(before, size, after)`, have the units on the middle axis.

    Attributes:
        path: key path of the leaf.
        axis: the axis.
        start: where the stretch begins; not 0 where units of several groups stand end to end.
        before: entries of an outer index, such as the pixels of a flattened image.
        after: entries of an inner index, such as the entries of each attention head.
        exponent: of the factor by which the leaf is multiplied when a unit is rescaled: positive
            where the unit is produced, negative where it is read; None if the group has no such
            symmetry.
        flips: whether the leaf is multiplied by -1 when a unit is flipped.
        is_read: whether the copies of a unit share the weights here instead of each having them
            whole; None if the units of the group cannot be split.
    """

    path: Path
    axis: int
    start: int = 0
    before: int = 1
    after: int = 1
    exponent: Fraction | None = None
    flips: bool = False
    is_read: bool | None = None

    @property
    def place(self) -> "Member":
        """The member without what is done to it there."""
        return self._replace(exponent=None, flips=False, is_read=None)

    def __str__(self) -> str:
        """Names the leaf, the axis and, where the units are not all of it, how they lie on it."""
        whole = f"{'/'.join(self.path) or 'params'} axis {self.axis}"
        if (self.start, self.before, self.after) == (0, 1, 1):
            return whole
        return f"{whole} from {self.start} as ({self.before}, units, {self.after})"


@dataclass(frozen=True)
class Group:
    """A group of hidden units.

    Attributes:
        name: path of the module (or leaf) whose outputs the units are.
        size: number of units.
        members: where the group occurs, in natural order.
    """

    name: str
    size: int
    members: tuple[Member, ...]

    @property
    def is_scalable(self) -> bool:
        """Whether each unit can be rescaled without changing the function."""
        return any(member.exponent is not None for member in self.members)

    @property
    def is_odd(self) -> bool:
        """Whether the sign of each unit can be flipped without changing the function."""
        return any(member.flips for member in self.members)

    @property
    def is_splittable(self) -> bool:
        """Whether a unit can be split into copies without changing the function."""
        # Twice in one stretch stand the units of a flattened outer product with themselves.
        stretches = {(member.path, member.axis, member.start) for member in self.members}
        is_known = any(member.is_read is not None for member in self.members)
        return is_known and len(stretches) == len(self.members)


@dataclass(frozen=True)
class UnitSpec:
    """The groups of hidden units of a function; hashable, made of names and sizes only.

    Attributes:
        groups: the groups, in natural order of their names.
        leaves: path and shape of every leaf of the parameters it was made for, in natural order.
        warnings: what was uncertain, for people.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pfn_optax.units import unit_spec
        >>> params = {
        ...     "hidden": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)},
        ...     "head": {"kernel": jnp.ones((4, 2))},
        ... }
        >>> def predict(params, x):
        ...     h = jax.nn.relu(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
        ...     return h @ params["head"]["kernel"]
        >>> spec = unit_spec(predict, params, jnp.ones((1, 3)))
        >>> [(group.name, group.size) for group in spec.groups]
        [('hidden', 4)]
        >>> print(*(f"{member}: {member.exponent}" for member in spec.group("hidden").members))
        head/kernel axis 0: -1 hidden/bias axis 0: 1 hidden/kernel axis 1: 1
    """

    groups: tuple[Group, ...]
    leaves: tuple[tuple[Path, Shape], ...]
    warnings: tuple[str, ...] = ()

    @functools.cached_property
    def _by_name(self) -> dict[str, Group]:
        return {group.name: group for group in self.groups}

    def group(self, name: str) -> Group:
        """Returns the group of a name.

        Raises:
            ValueError: if there is none.
        """
        if name not in self._by_name:
            near = difflib.get_close_matches(name, self._by_name, n=3) or [*self._by_name][:5]
            raise ValueError(
                f"there is no group {name!r}; groups are named by module: {', '.join(near)}."
            )
        return self._by_name[name]

    def permute(self, params: Any, permutations: Mapping[str, Any]) -> Any:
        """Permutes units: the new unit `i` is the old unit `permutation[i]`.

        The function that the parameters define does not change. Works on any tree with the same
        leaves (gradients, moments of an optimizer), and inside `jax.jit`.

        Args:
            params: the parameters.
            permutations: for each group to be permuted, i32[size].

        Returns:
            A tree like params.

        Raises:
            ValueError: if a group is not known, an array is no permutation of its units, or the
                tree is not one of the same model.

        Example:
            >>> import jax.numpy as jnp
            >>> from pfn_optax.units import unit_spec
            >>> params = {"in": jnp.asarray([[1.0, 2.0]]), "out": jnp.asarray([[3.0], [4.0]])}
            >>> spec = unit_spec(lambda p, x: x @ p["in"] @ p["out"], params, jnp.ones((1, 1)))
            >>> spec.permute(params, {"in": [1, 0]})["in"]
            Array([[2., 1.]], dtype=float32)
        """
        for name, permutation in permutations.items():
            _require_permutation(self.group(name), permutation)

        def move(leaf: Any, axis: int, members: list[tuple[Group, Member]]) -> Any:
            index = np.arange(leaf.shape[axis])
            for group, member in members:
                # How far the entry to take lies from the one of the same unit before.
                moves = host(permutations[group.name]) - np.arange(group.size)
                unit, is_member = _units(leaf.shape[axis], group, member)
                index = index + is_member * member.after * moves[unit]
            return namespace(leaf, index).take(leaf, index, axis)

        return self._mapped(params, permutations, move)

    def rescale(self, params: Any, scales: Mapping[str, Any]) -> Any:
        """Multiplies every leaf by `scale ** exponent`, unit by unit.

        The function that the parameters define does not change.

        Args:
            params: the parameters.
            scales: for each group to be rescaled, its positive factors, f32[size].

        Returns:
            A tree like params, with the same dtypes.

        Raises:
            ValueError: if a group is not known or not scalable, the factors are not positive or do
                not fit its size, or the tree is not one of the same model.

        Example:
            >>> import jax.numpy as jnp
            >>> from pfn_optax.units import unit_spec
            >>> params = {"in": jnp.asarray([[1.0, 2.0]]), "out": jnp.asarray([[3.0], [4.0]])}
            >>> spec = unit_spec(lambda p, x: x @ p["in"] @ p["out"], params, jnp.ones((1, 1)))
            >>> spec.rescale(params, {"in": jnp.asarray([2.0, 1.0])})["out"].ravel()
            Array([1.5, 4. ], dtype=float32)
        """
        for name, scale in scales.items():
            _require_scales(self.group(name), scale)

        def factors(group: Group, member: Member) -> Any:
            scale = host(scales[group.name])
            return scale ** float(member.exponent) if member.exponent else None

        return self._multiplied(params, scales, factors)

    def flip(self, params: Any, signs: Mapping[str, Any]) -> Any:
        """Multiplies by -1 every entry of a unit that is flipped, where the member says so.

        The function that the parameters define does not change. With a linear unit this is what
        rescaling it by -1 would do; a unit between ReLUs has no such symmetry, and neither has one
        that a norm over the units (LayerNorm) centres.

        Args:
            params: the parameters.
            signs: for each group to be flipped, -1 for the units to be flipped and +1 for the
                others, f32[size].

        Returns:
            A tree like params, with the same dtypes.

        Raises:
            ValueError: if a group is not known or not odd, the signs are not +1 or -1 or do not fit
                its size, or the tree is not one of the same model.

        Example:
            >>> import jax.numpy as jnp
            >>> from pfn_optax.units import unit_spec
            >>> params = {"in": jnp.asarray([[1.0, 2.0]]), "out": jnp.asarray([[3.0], [4.0]])}
            >>> def predict(params, x):
            ...     return jnp.tanh(x @ params["in"]) @ params["out"]
            >>> spec = unit_spec(predict, params, jnp.ones((1, 1)))
            >>> spec.flip(params, {"in": [1, -1]})["out"].ravel()
            Array([ 3., -4.], dtype=float32)
        """
        for name, sign in signs.items():
            _require_signs(self.group(name), sign)

        def factors(group: Group, member: Member) -> Any:
            return host(signs[group.name]) if member.flips else None

        return self._multiplied(params, signs, factors)

    def _multiplied(
        self, params: Any, names: Mapping[str, Any], factors: Callable[[Group, Member], Any]
    ) -> Any:
        """Multiplies by the factors of each unit; None for a member that stays as it is."""

        def multiply(leaf: Any, axis: int, members: list[tuple[Group, Member]]) -> Any:
            shape = [1] * leaf.ndim
            shape[axis] = -1
            for group, member in members:
                own = factors(group, member)
                if own is None:
                    continue
                unit, is_member = _units(leaf.shape[axis], group, member)
                own = namespace(own).where(is_member, own[unit], 1)
                leaf = leaf * own.astype(leaf.dtype).reshape(shape)
            return leaf

        return self._mapped(params, names, multiply)

    def _mapped(
        self,
        params: Any,
        names: Mapping[str, Any],
        change: Callable[[Any, int, list[tuple[Group, Member]]], Any],
    ) -> Any:
        """Changes every axis on which one of the groups occurs."""
        self.require_leaves(params)
        found: dict[tuple[Path, int], list[tuple[Group, Member]]] = {}
        for name in names:
            for member in self.group(name).members:
                found.setdefault((member.path, member.axis), []).append((self.group(name), member))
        leaves, treedef = jax.tree.flatten(params)
        for number, (path, leaf) in enumerate(named_leaves(params)):
            for axis in range(jnp.ndim(leaf)):
                if members := found.get((path, axis)):
                    leaves[number] = change(leaves[number], axis, members)
        return treedef.unflatten(leaves)

    def require_leaves(self, params: Any) -> None:
        """Checks that a tree has the leaves that the groups index.

        Args:
            params: the tree.

        Raises:
            ValueError: if a leaf is missing or has another shape.
        """
        shapes = {path: tuple(jnp.shape(leaf)) for path, leaf in named_leaves(params)}
        used = {member.path for group in self.groups for member in group.members}
        for path, shape in self.leaves:
            if path in used and shapes.get(path) != shape:
                received = f"has shape {shapes[path]}" if path in shapes else "is missing"
                raise ValueError(
                    f"{'/'.join(path) or 'params'!r} {received}, the spec was made for shape "
                    f"{shape}: pass a tree with the leaves that were given to unit_spec()."
                )


def _units(length: int, group: Group, member: Member) -> tuple[np.ndarray, np.ndarray]:
    """For each entry of an axis its unit, and whether it has one here."""
    stretch = np.zeros((member.before, group.size, member.after), int)
    stretch += np.arange(group.size)[:, None]
    unit, is_member = np.zeros(length, int), np.zeros(length, bool)
    stop = member.start + stretch.size
    unit[member.start : stop], is_member[member.start : stop] = stretch.ravel(), True
    return unit, is_member


def host(value: Any) -> Any:
    """A NumPy array where the value is known: no operation is compiled for it."""
    return value if isinstance(value, Tracer) else np.asarray(value)


def namespace(*values: Any) -> Any:
    """NumPy where all values are its arrays, else JAX's."""
    return np if all(isinstance(value, np.ndarray) for value in values) else jnp


def _require_permutation(group: Group, permutation: Any) -> None:
    shape = np.shape(permutation)
    is_valid = shape == (group.size,)
    if is_valid and not isinstance(permutation, Tracer):
        is_valid = np.array_equal(np.sort(permutation), np.arange(group.size))
    if not is_valid:
        raise ValueError(
            f"group {group.name!r} needs a permutation of 0, ..., {group.size - 1}, got an array "
            f"of shape {shape}: {permutation}."
        )


def _require_scales(group: Group, scale: Any) -> None:
    if not group.is_scalable:
        raise ValueError(
            f"group {group.name!r} cannot be rescaled: something between its units and what reads "
            "them is not homogeneous (tanh, a norm over the units); see Group.is_scalable."
        )
    is_valid = np.shape(scale) == (group.size,)
    if is_valid and not isinstance(scale, Tracer):
        is_valid = bool(np.all(np.isfinite(scale)) and np.all(np.asarray(scale) > 0))
    if not is_valid:
        raise ValueError(
            f"group {group.name!r} needs {group.size} positive factors, got an array of shape "
            f"{np.shape(scale)}: {scale}."
        )


def _require_signs(group: Group, sign: Any) -> None:
    if not group.is_odd:
        raise ValueError(
            f"group {group.name!r} cannot be flipped: something between its units and what reads "
            "them is not odd (relu, gelu, a norm over the units); see Group.is_odd."
        )
    is_valid = np.shape(sign) == (group.size,)
    if is_valid and not isinstance(sign, Tracer):
        is_valid = bool(np.all(np.abs(np.asarray(sign)) == 1))
    if not is_valid:
        raise ValueError(
            f"group {group.name!r} needs {group.size} signs, each +1 or -1, got an array of shape "
            f"{np.shape(sign)}: {sign}."
        )


def num_symmetries(spec: UnitSpec) -> float:
    """Returns the logarithm (base 10) of the number of permutations that change nothing.

    A group of n units has n! of them, and all groups the product. Signs are not counted: n odd
    units have 2^n of them for each permutation. Neither are scales, of which there is no end.

    Args:
        spec: the groups.

    Returns:
        The logarithm.

    Example:
        >>> from pfn_optax.units import Group, UnitSpec, num_symmetries
        >>> round(num_symmetries(UnitSpec((Group("hidden", 512, ()),), ())), 1)
        1166.5

    Reference:
        Ainsworth, Hayase, Srinivasa, "Git Re-Basin: merging models modulo permutation symmetries",
        ICLR 2023, table 1; it counts every layer by itself and rounds each factorial down.
    """
    return sum(math.lgamma(group.size + 1) for group in spec.groups) / math.log(10)


def by_path(member: Member) -> tuple[Any, ...]:
    """Sorts members naturally."""
    return natural_key(member.path), member.axis, member.start, member.before
