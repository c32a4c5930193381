"""A parameter tree cut into layers, and each layer into blocks of output units.

A *layer* is a matrix (any leaf with two or more axes: a dense or convolution kernel, an embedding)
together with the vectors beside it that have one entry per output unit (its bias, which has several
axes for attention heads and for layers stacked for a scan). A *block* is a
run of consecutive output units of one layer, the smallest thing that PFN measures and amplifies.

The partition of a unit graph cuts matrices along both sides instead (`GridLayer`), and leaves
vectors alone.

Vectors that belong to no matrix (the scale and bias of a normalisation layer, which sit in a module
of their own) are in no block and are never amplified; only in a tree without any matrix does every
leaf become a layer of its own.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.grid import GridLayer
from pfn_optax.paths import Path, named_leaves, natural_key

DEFAULT_BLOCK_SIZE = 16

OutputAxis = int | Callable[[str, tuple[int, ...]], int]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One matrix and the vectors that follow its output units.

    Attributes:
        name: path of the module (`"encoder/Dense_0"`), or of the leaf where a module holds several
            matrices.
        axes: the leaves of the layer, matrix first, as (path, axis along which the units lie).
        num_units: number of output units.
        first_block: index of the layer's first block among all blocks.
        starts: index of the first unit of each block.
    """

    name: str
    axes: tuple[tuple[Path, int], ...]
    num_units: int
    first_block: int
    starts: tuple[int, ...]

    @property
    def num_blocks(self) -> int:
        """Number of blocks of the layer."""
        return len(self.starts)

    @property
    def blocks(self) -> slice:
        """The layer's blocks among all blocks."""
        return slice(self.first_block, self.first_block + self.num_blocks)

    @property
    def path(self) -> Path:
        """Key path of the matrix."""
        return self.axes[0][0]

    @property
    def unit_axis(self) -> int:
        """The matrix's axis of output units."""
        return self.axes[0][1]

    @property
    def paths(self) -> tuple[Path, ...]:
        """Key paths of the layer's leaves."""
        return tuple(path for path, _ in self.axes)

    def describe_block(self, number: int) -> str:
        """Returns the output units of a block, `"16:32"`."""
        return f"{self.starts[number]}:{(*self.starts, self.num_units)[number + 1]}"

    @property
    def block_sizes(self) -> tuple[int, ...]:
        """Number of units in each block."""
        return tuple(np.diff((*self.starts, self.num_units)).tolist())

    @functools.cached_property
    def block_of_unit(self) -> np.ndarray:
        """Number within the layer of each output unit's block, i32[num_units]."""
        return np.repeat(np.arange(self.num_blocks, dtype=np.int32), self.block_sizes)

    def energies(self, squares: jax.Array, axis: int) -> jax.Array:
        """Adds up the entries of each block in one leaf.

        Leaf by leaf, and down to blocks before anything is joined: where leaves are sharded, each
        device then adds up what it holds, and the small sums are all that is exchanged.

        Args:
            squares: f32, a leaf of the layer with its entries squared.
            axis: the leaf's axis of output units.

        Returns:
            f32[num_blocks].
        """
        units = squares.sum(tuple(a for a in range(squares.ndim) if a != axis)).reshape(-1)
        return jax.ops.segment_sum(
            units, self.block_of_unit, self.num_blocks, indices_are_sorted=True
        )

    def spread(self, values: jax.Array, shape: Shape, axis: int) -> jax.Array:
        """Gives every entry of a leaf the value of its block.

        Args:
            values: f32[num_blocks].
            shape: shape of the leaf.
            axis: its axis of output units.

        Returns:
            f32, in a shape that broadcasts against the leaf.
        """
        if not shape:
            return values.reshape(())
        broadcast = [1] * len(shape)
        broadcast[axis] = self.num_units
        return values[self.block_of_unit].reshape(broadcast)


@dataclass(frozen=True)
class Partition:
    """All layers of a parameter tree in natural path order; hashable, made of names and sizes only.

    Attributes:
        layers: the layers; block indices run through them in order.
        unblocked: paths of the leaves that belong to no block.
    """

    layers: tuple[Layer | GridLayer, ...]
    unblocked: tuple[str, ...]

    @functools.cached_property
    def num_blocks(self) -> int:
        """Number of blocks of all layers."""
        return sum(layer.num_blocks for layer in self.layers)

    @functools.cached_property
    def block_layer(self) -> np.ndarray:
        """Index of the layer that each block belongs to, i32[num_blocks]."""
        counts = [layer.num_blocks for layer in self.layers]
        return np.repeat(np.arange(len(counts), dtype=np.int32), counts)

    @functools.cached_property
    def grids(self) -> dict[Path, GridLayer]:
        """The layers that are cut into sub-matrices, by the path of the matrix."""
        return {layer.path: layer for layer in self.layers if isinstance(layer, GridLayer)}

    @functools.cached_property
    def row_leaves(self) -> dict[Path, tuple[Layer, int]]:
        """For each leaf that is cut into rows, its layer and its axis of output units."""
        return {
            path: (layer, axis)
            for layer in self.layers
            if isinstance(layer, Layer)
            for path, axis in layer.axes
        }

    @functools.cached_property
    def paths(self) -> frozenset[Path]:
        """Key paths of all leaves in blocks."""
        return frozenset(path for layer in self.layers for path in layer.paths)

    def leaves(self, tree: Any) -> dict[Path, Any]:
        """Returns the leaves of a tree that are in blocks, by path.

        Raises:
            ValueError: if the tree lacks one of them, or one has another shape.
        """
        found = {path: leaf for path, leaf in named_leaves(tree) if path in self.paths}
        if missing := sorted(path for path in self.paths if path not in found):
            raise ValueError(
                f"this tree has no leaf {'/'.join(missing[0])!r}, which the blocks were made of: "
                "pass gradients, updates and params of the same model."
            )
        for path, grid in self.grids.items():
            if jnp.shape(found[path]) != grid.shape:
                raise ValueError(
                    f"{'/'.join(path)} has shape {jnp.shape(found[path])}, but the blocks were "
                    f"made for {grid.shape}: make the graph anew for this model."
                )
        return found


def partition(
    params: Any,
    *,
    block_size: int | None = None,
    num_blocks: int | None = None,
    output_axis: OutputAxis | None = None,
) -> Partition:
    """Cuts a parameter tree into layers and blocks.

    Args:
        params: parameter tree; only paths, shapes and dtypes are read (`ShapeDtypeStruct` will do).
            Leaves that are not floating or complex, and empty ones, are left out.
        block_size: units per block, the last block of a layer may be smaller; a layer with fewer
            units is one block. Default 16.
        num_blocks: instead of `block_size`, cut each layer into this many nearly equal blocks
            (fewer in layers with fewer units).
        output_axis: the axis of a matrix that runs over output units: an integer for all, or a
            function of (path, shape). Default: the last axis, Flax's and Haiku's convention.

    Returns:
        The partition.

    Raises:
        ValueError: if sizes are not positive, both are given, or an axis is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.partition import partition
        >>> params = {"Dense_0": {"kernel": jnp.ones((8, 40)), "bias": jnp.ones(40)}}
        >>> [layer] = partition(params, block_size=16).layers
        >>> layer.name, layer.block_sizes
        ('Dense_0', (16, 16, 8))
    """
    for name, value in (("block_size", block_size), ("num_blocks", num_blocks)):
        if value is not None and not (isinstance(value, int) and value > 0):
            raise ValueError(
                f"{name} must be a positive Python integer, got {value!r}. Under "
                "`optax.inject_hyperparams`, list it in `static_args`."
            )
    if block_size is not None and num_blocks is not None:
        raise ValueError(
            f"give block_size or num_blocks, not both: got {block_size} and {num_blocks}."
        )
    leaves = tuple(
        (path, tuple(jnp.shape(leaf)))
        for path, leaf in named_leaves(params)
        if _is_inexact(leaf) and 0 not in jnp.shape(leaf)
    )
    return _partition(leaves, block_size, num_blocks, output_axis)


def _is_inexact(leaf: Any) -> bool:
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    return jnp.issubdtype(dtype, jnp.inexact)


@functools.lru_cache(maxsize=256)
def _partition(
    leaves: tuple[tuple[Path, Shape], ...],
    block_size: int | None,
    num_blocks: int | None,
    output_axis: OutputAxis | None,
) -> Partition:
    shapes = dict(sorted(leaves, key=lambda item: natural_key(item[0])))
    matrices = [
        path
        for path, shape in shapes.items()
        if len(shape) > 1 and not _is_bias_of_many_axes(path, shapes)
    ]
    heads = matrices or list(shapes)
    axis_of = {path: _unit_axis(path, shapes[path], output_axis) for path in heads}
    heads_in = {path[:-1]: [] for path in heads}
    for path in heads:
        heads_in[path[:-1]].append(path)
    followers: dict[Path, list[Path]] = {path: [] for path in heads}
    for path, shape in shapes.items():
        if path not in followers and shape:
            beside = heads_in.get(path[:-1], [])
            fitting = [head for head in beside if shapes[head][axis_of[head]] == shape[-1]]
            if fitting:
                followers[max(fitting, key=functools.partial(_closeness, path))].append(path)

    layers, first_block = [], 0
    for head in heads:
        shape, axis = shapes[head], axis_of[head]
        num_units = shape[axis] if shape else 1
        starts = starts_of(num_units, block_size, num_blocks)
        is_module = bool(matrices) and len(head) > 1 and len(heads_in[head[:-1]]) == 1
        layers.append(
            Layer(
                name="/".join(head[:-1] if is_module else head) or "params",
                axes=((head, axis), *((path, len(shapes[path]) - 1) for path in followers[head])),
                num_units=num_units,
                first_block=first_block,
                starts=starts,
            )
        )
        first_block += len(starts)
    in_blocks = {path for layer in layers for path, _ in layer.axes}
    return Partition(
        layers=tuple(layers),
        unblocked=tuple("/".join(path) for path in shapes if path not in in_blocks),
    )


def _is_bias_of_many_axes(path: Path, shapes: dict[Path, Shape]) -> bool:
    """Whether a leaf is the bias of attention heads, or of layers stacked for a scan."""
    shape = shapes[path]
    return path[-1:] in (("bias",), ("b",)) and any(
        len(shape) < len(other) and shape[-1] == other[-1] and set(shape) <= set(other)
        for beside, other in shapes.items()
        if beside[:-1] == path[:-1]
    )


def _unit_axis(path: Path, shape: Shape, output_axis: OutputAxis | None) -> int:
    if len(shape) < 2:
        return 0
    if output_axis is None:
        return len(shape) - 1
    axis = output_axis("/".join(path), shape) if callable(output_axis) else output_axis
    if not -len(shape) <= axis < len(shape):
        raise ValueError(
            f"output_axis must lie in [{-len(shape)}, {len(shape)}) for {'/'.join(path)!r} with "
            f"shape {shape}, got {axis}. Pass a function of (path, shape) to choose per leaf."
        )
    return axis % len(shape)


def _closeness(path: Path, head: Path) -> tuple[bool, bool, Any]:
    """Which of several matrices in one place a vector follows.

    For {"w1", "b1", "w2", "b2"} the one with the same number in its name, else, as in [w1, b1, w2,
    b2], the nearest before.
    """
    is_before = natural_key(head) < natural_key(path)
    return _digits(head[-1]) == _digits(path[-1]), is_before, natural_key(head)


def _digits(name: str) -> str:
    return "".join(filter(str.isdigit, name))


def starts_of(num_units: int, block_size: int | None, num_blocks: int | None) -> tuple[int, ...]:
    """Cuts units into runs of `block_size`, or into `num_blocks` nearly equal ones.

    Args:
        num_units: number of units.
        block_size: units per run, the last may be shorter; 16 if both are None.
        num_blocks: number of runs, fewer where there are fewer units.

    Returns:
        The first unit of each run.
    """
    if num_blocks is None:
        return tuple(range(0, num_units, block_size or DEFAULT_BLOCK_SIZE))
    count = min(num_blocks, num_units)
    return tuple(index * num_units // count for index in range(count))


def block_norms(layout: Partition, tree: Any) -> jax.Array:
    """Returns the L2 norm of each block over its entries in all leaves of the layer.

    Args:
        layout: the partition of the tree.
        tree: gradients, updates or parameters.

    Returns:
        f32[num_blocks], whatever the dtype of the leaves.
    """
    return jnp.sqrt(block_energies(layout, layout.leaves(tree)))


def block_energies(layout: Partition, leaves: dict[Path, jax.Array]) -> jax.Array:
    """Returns the squared L2 norm of each block from its leaves; every entry is read once.

    Args:
        layout: the partition.
        leaves: `layout.leaves(tree)`.

    Returns:
        f32[num_blocks].
    """
    per_layer = [jnp.zeros(0, jnp.float32)]
    for layer in layout.layers:
        if isinstance(layer, GridLayer):
            per_layer.append(layer.energies(_energy(leaves[layer.path])))
        else:
            by_leaf = [layer.energies(_energy(leaves[path]), axis) for path, axis in layer.axes]
            per_layer.append(sum(by_leaf, start=jnp.zeros(layer.num_blocks, jnp.float32)))
    return jnp.concatenate(per_layer)


def unblocked_energy(layout: Partition, tree: Any) -> jax.Array:
    """Returns the squared L2 norm of all floating leaves that are in no block, f32[]."""
    unblocked = set(layout.unblocked)
    return sum(
        (_energy(leaf).sum() for path, leaf in named_leaves(tree) if "/".join(path) in unblocked),
        start=jnp.zeros((), jnp.float32),
    )


def _energy(x: jax.Array) -> jax.Array:
    """`|x|^2` per entry in float32, also for bfloat16 and complex entries."""
    x = jnp.asarray(x)
    if jnp.iscomplexobj(x):
        return _energy(x.real) + _energy(x.imag)
    return jnp.square(x.astype(jnp.float32))


def scale_blocks(
    layout: Partition, tree: Any, multipliers: jax.Array, rest: jax.Array | float = 1.0
) -> Any:
    """Multiplies every entry of a block by the block's multiplier.

    Args:
        layout: the partition of the tree.
        tree: gradients or updates.
        multipliers: f32[num_blocks].
        rest: factor for floating leaves that are in no block.

    Returns:
        A tree like `tree`, with the same dtypes.
    """

    def scale(path: Path, leaf: Any) -> Any:
        if path in layout.row_leaves:
            layer, axis = layout.row_leaves[path]
            return _multiply(leaf, layer.spread(multipliers[layer.blocks], jnp.shape(leaf), axis))
        if grid := layout.grids.get(path):
            return _multiply(leaf, grid.spread(multipliers[grid.blocks]))
        if isinstance(rest, jax.Array) and "/".join(path) in layout.unblocked:
            return _multiply(leaf, rest)
        return leaf

    leaves, treedef = jax.tree.flatten(tree)
    paths = [path for path, _ in named_leaves(tree)]
    return treedef.unflatten(map(scale, paths, leaves))


def _multiply(leaf: Any, factor: jax.Array) -> jax.Array:
    leaf = jnp.asarray(leaf)
    dtype = jnp.float32 if jnp.finfo(leaf.dtype).bits < 32 else leaf.dtype
    return (leaf.astype(dtype) * factor.astype(dtype)).astype(leaf.dtype)
