"""Where a traced function computes something per channel: its layers with a bias, its batch norms.

The statistics of a unit are those of a value of the program. Which value, and which leaves set its
mean and its deviation, is read off the program: a kernel is followed through reshapes and
transposes to the product with the data, and its bias to the sum.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from pfn_optax.paths import Path
from pfn_optax.tracing import Equation, Traced, Variable, interpret

_COPIES = frozenset({"convert_element_type", "copy", "copy_p", "sharding_constraint"})


@dataclass(eq=False, frozen=True)
class Site:
    """A value whose channels have statistics.

    Attributes:
        value: the value.
        axis: its axis of channels.
        depth: how many sites lie on the longest way from the data to here.
    """

    value: Variable
    axis: int
    depth: int


@dataclass(eq=False, frozen=True)
class Layer(Site):
    """A dense layer or a convolution with a bias; the value is its output.

    Attributes:
        kernel: path of the kernel.
        kernel_axis: axis of the kernel that the outputs are on.
        bias: path of the bias, f[num_channels].
    """

    kernel: Path
    kernel_axis: int
    bias: Path

    @property
    def name(self) -> str:
        """Names the layer by its bias."""
        return "/".join(self.bias)


@dataclass(eq=False, frozen=True)
class BatchNorm(Site):
    """A batch norm in evaluation mode; the value is what it reads.

    Attributes:
        mean: path of the running mean, f[num_channels].
        variance: path of the running variance, f[num_channels].
    """

    mean: Path
    variance: Path

    @property
    def name(self) -> str:
        """Names the batch norm by its mean."""
        return "/".join(self.mean)


AnySite = TypeVar("AnySite", Layer, BatchNorm)


class Sites(NamedTuple):
    """The sites of a program in the order of computation.

    Attributes:
        layers: its layers with a bias.
        norms: its batch norms.
        uses: how many operations read each leaf.
    """

    layers: list[Layer]
    norms: list[BatchNorm]
    uses: Counter[Path]


class _Leaf(NamedTuple):
    """A leaf of the parameters, or what a layer makes of it, in another shape.

    Attributes:
        path: the leaf.
        axes: for each axis of the value the axis of the leaf; None for any other.
        is_product: whether this is the product of the leaf and the data.
    """

    path: Path
    axes: tuple[int | None, ...]
    is_product: bool = False


class _Value(NamedTuple):
    leaf: _Leaf | None
    depth: int


def sites_of(traced: Traced) -> Sites:
    """Finds the layers with a bias and the batch norms of a traced function.

    Args:
        traced: the function, whose first argument are the parameters.

    Returns:
        The sites. What is inside of loops and branches is not seen.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.align.channels import sites_of
        >>> from pfn_optax.tracing import trace
        >>> params = {"bias": jnp.zeros(4), "kernel": jnp.ones((3, 4))}
        >>> dense = lambda p, x: x @ p["kernel"] + p["bias"]
        >>> [layer] = sites_of(trace(dense, params, jnp.ones((5, 3)))).layers
        >>> layer.kernel, layer.kernel_axis, layer.bias, layer.axis
        (('kernel',), 1, ('bias',), 1)
    """
    found = Sites([], [], Counter())
    paths = {path[1:] for path in traced.paths if path[0] == "0"}

    def apply(equation: Equation, values: list[_Value]) -> Sequence[_Value]:
        depth = max((value.depth for value in values), default=0)
        leaves = [value.leaf for value in values]
        moved = _moved(equation, leaves[0]) if len(leaves) == 1 else None
        if moved is None:
            found.uses.update(leaf.path for leaf in leaves if leaf and not leaf.is_product)
            site = _site(equation, leaves, paths, depth)
            if isinstance(site, Layer):
                found.layers.append(site)
            elif isinstance(site, BatchNorm):
                found.norms.append(site)
            if site:
                depth += 1
            elif len(leaves) == 2:
                moved = _product(equation, leaves[0], leaves[1])
        return [_Value(moved, depth)] * len(equation.outputs)

    inputs = [
        _Value(_Leaf(path[1:], tuple(range(len(variable.shape)))) if path[0] == "0" else None, 0)
        for path, variable in zip(traced.paths, traced.program.inputs, strict=True)
    ]
    interpret(traced.program, inputs, constant=lambda _: _Value(None, 0), apply=apply)
    return found


def _moved(equation: Equation, leaf: _Leaf | None) -> _Leaf | None:
    """A leaf after an operation that at most moves its entries."""
    if leaf is None:
        return None
    (before,), (after,) = equation.inputs, equation.outputs
    params = equation.params
    if equation.primitive in _COPIES:
        return leaf
    if equation.primitive == "transpose":
        return leaf._replace(axes=tuple(leaf.axes[axis] for axis in params["permutation"]))
    if equation.primitive == "broadcast_in_dim":
        origin = dict(zip(params["broadcast_dimensions"], range(len(before.shape)), strict=True))
        return leaf._replace(
            axes=tuple(
                leaf.axes[origin[axis]]
                if axis in origin and before.shape[origin[axis]] == size
                else None
                for axis, size in enumerate(after.shape)
            )
        )
    if equation.primitive in ("reshape", "squeeze", "expand_dims"):
        # Only axes of one entry may come and go: then the others stay in their order.
        wide = [axis for axis, size in enumerate(before.shape) if size != 1]
        if [before.shape[axis] for axis in wide] == [size for size in after.shape if size != 1]:
            rest = iter(wide)
            axes = [leaf.axes[next(rest)] if size != 1 else None for size in after.shape]
            if not wide and axes:  # one channel: last, as channels are
                axes[-1] = next((own for own in leaf.axes if own is not None), None)
            return leaf._replace(axes=tuple(axes))
    return None


def _product(equation: Equation, left: _Leaf | None, right: _Leaf | None) -> _Leaf | None:
    """What a dense layer or a convolution makes of its kernel and the data."""
    is_left = left is not None
    kernel = left if is_left else right
    if kernel is None or kernel.is_product or (left and right):
        return None
    if equation.primitive == "conv_general_dilated" and not is_left:
        dimensions = equation.params["dimension_numbers"]
        axes: list[int | None] = [None] * len(equation.outputs[0].shape)
        axes[dimensions.out_spec[1]] = kernel.axes[dimensions.rhs_spec[0]]
        return _Leaf(kernel.path, tuple(axes), is_product=True)
    if equation.primitive == "dot_general":
        contracted, batch = equation.params["dimension_numbers"]
        kept = [
            [axis for axis in range(len(operand.shape)) if axis not in (*summed, *mapped)]
            for operand, summed, mapped in zip(equation.inputs, contracted, batch, strict=True)
        ]
        own = [kernel.axes[axis] for axis in kept[0 if is_left else 1]]
        others = [None] * len(kept[1 if is_left else 0])
        shared = [None] * len(batch[0])
        axes = [*shared, *own, *others] if is_left else [*shared, *others, *own]
        return _Leaf(kernel.path, tuple(axes), is_product=True)
    return None


def _site(
    equation: Equation, leaves: list[_Leaf | None], paths: set[Path], depth: int
) -> Layer | BatchNorm | None:
    """The site of an operation between a value and a vector of the parameters."""
    if equation.primitive not in ("add", "add_any", "sub"):
        return None
    vectors = [leaf for leaf in leaves if leaf and not leaf.is_product and _channels(leaf)]
    if len(vectors) != 1:
        return None
    vector = vectors[0]
    axis = _channels(vector)[0]
    # A number for all channels is none for each of them.
    if equation.outputs[0].shape[axis] != equation.inputs[leaves.index(vector)].shape[axis]:
        return None
    if equation.primitive == "sub":
        variance = (*vector.path[:-1], "var")
        if leaves[1] is vector and vector.path[-1:] == ("mean",) and variance in paths:
            return BatchNorm(equation.inputs[0], axis, depth, vector.path, variance)
        return None
    other = leaves[1] if leaves[0] is vector else leaves[0]
    own = other.axes[axis] if other and other.is_product else None
    if other is None or own is None:
        return None
    return Layer(equation.outputs[0], axis, depth, other.path, own, vector.path)


def _channels(leaf: _Leaf) -> list[int]:
    """The axis of a vector, as a list; nothing for a leaf with more axes than that."""
    axes = [axis for axis, own in enumerate(leaf.axes) if own is not None]
    return axes if len(axes) == 1 else []


def by_depth(sites: Iterable[AnySite]) -> list[list[AnySite]]:
    """Sites in the order in which they can be set: those of a list do not read each other."""
    levels: dict[int, list[AnySite]] = {}
    for site in sites:
        levels.setdefault(site.depth, []).append(site)
    return [levels[depth] for depth in sorted(levels)]
