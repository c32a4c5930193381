"""A matrix cut along both sides: its blocks are sub-matrices, from chunk to chunk of units."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.paths import Path


@dataclass(frozen=True)
class Chunks:
    """An axis cut into chunks, which need not be runs (behind a flatten they are not).

    Attributes:
        axis: the axis of the matrix.
        labels: the chunk of each index along it, i32 as bytes so that it hashes fast.
        names: what each chunk is called, `"16:32"`.
    """

    axis: int
    labels: bytes
    names: tuple[str, ...]

    @functools.cached_property
    def chunk_of(self) -> np.ndarray:
        """The chunk of each index, i32[size of the axis]."""
        return np.frombuffer(self.labels, np.int32)

    @functools.cached_property
    def membership(self) -> np.ndarray:
        """1 where an index is in a chunk, f32[num_chunks, size of the axis]."""
        return (np.arange(len(self.names))[:, None] == self.chunk_of).astype(np.float32)


@dataclass(frozen=True)
class GridLayer:
    """One matrix whose blocks are the cells of a grid.

    Attributes:
        name: name of the layer.
        path: key path of the matrix.
        shape: its shape.
        sides: the axes that are cut, none to two, in order; blocks are numbered row by row.
        first_block: index of the layer's first block among all blocks.
    """

    name: str
    path: Path
    shape: tuple[int, ...]
    sides: tuple[Chunks, ...]
    first_block: int

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of chunks along each side."""
        return tuple(len(side.names) for side in self.sides)

    @property
    def num_blocks(self) -> int:
        """Number of blocks of the layer."""
        return int(np.prod(self.grid, dtype=np.int64))

    @property
    def unit_axis(self) -> int:
        """The axis along which the matrix is taken apart into columns."""
        return self.sides[-1].axis if self.sides else len(self.shape) - 1

    @property
    def paths(self) -> tuple[Path, ...]:
        """Key paths of the layer's leaves."""
        return (self.path,)

    @property
    def blocks(self) -> slice:
        """The layer's blocks among all blocks."""
        return slice(self.first_block, self.first_block + self.num_blocks)

    def describe_block(self, number: int) -> str:
        """Returns the units of a block, `"0:16 x 16:32"`."""
        cell = np.unravel_index(number, self.grid) if self.sides else ()
        return (
            " x ".join(side.names[index] for side, index in zip(self.sides, cell, strict=True))
            or "all"
        )

    def energies(self, squares: jax.Array) -> jax.Array:
        """Adds up the entries of each block.

        Args:
            squares: f32, the layer's matrix with its entries squared.

        Returns:
            f32[num_blocks].
        """
        axes = [side.axis for side in self.sides]
        others = [axis for axis in range(squares.ndim) if axis not in axes]
        # A product, which a CPU computes in vectors; a sum over leading axes takes it 20 times as
        # long.
        ones = np.ones([squares.shape[axis] for axis in others], np.float32)
        sums = jnp.tensordot(ones, squares, ([*range(len(others))], others), precision="highest")
        for dim, side in enumerate(self.sides):
            sums = jnp.moveaxis(
                jnp.tensordot(side.membership, sums, (1, dim), precision="highest"), 0, dim
            )
        return sums.reshape(-1)

    def spread(self, values: jax.Array) -> jax.Array:
        """Gives every entry of the matrix the value of its block.

        Args:
            values: f32[num_blocks].

        Returns:
            f32, in a shape that broadcasts against the matrix.
        """
        cells = values.reshape(self.grid)
        shape = [1] * len(self.shape)
        for dim, side in enumerate(self.sides):
            # A product, not a gather, which would be repeated for every entry of the matrix.
            cells = jnp.moveaxis(
                jnp.tensordot(side.membership, cells, (0, dim), precision="highest"), 0, dim
            )
            shape[side.axis] = self.shape[side.axis]
        return cells.reshape(shape)
