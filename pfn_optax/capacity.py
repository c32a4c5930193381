"""From what is known of the blocks to edge capacities.

A capacity rule is a function of (statistics, partition) that returns one non-negative number per
block. The named rules:

| name | capacity of a block | reads parameters |
| --- | --- | --- |
| `"rank"` | .1 + .9 rank / (blocks in the layer - 1), the study's Definition 2 | no |
| `"norm"` | gradient norm, the study's section 2.1 | no |
| `"energy"` | squared gradient norm: a layer's total does not depend on how finely it is cut | no |
| `"global_rank"` | .1 + .9 rank / (blocks - 1) over the whole network | no |
| `"relative"` | gradient norm / parameter norm | yes |
| `"sensitivity"` | parameter norm x gradient norm, a bound on the block's saliency | yes |
| `"effective_rank"` | share in the effective rank of the layer's matrix, by squared norm | yes |
| `"jacobian_rank"` | the same, times the positions (pixels, tokens) it is applied at | yes |

The last two count directions. They have a law (the rank of the end-to-end Jacobian is at most the
sum over any cut), and an identity has its width as capacity there.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.grid import GridLayer
from pfn_optax.partition import Layer, Partition, Path, block_energies

DEFAULT_CAPACITY = "jacobian_rank"

_TINY = float(np.finfo(np.float32).tiny)


class Statistics:
    """What a capacity rule may ask about the blocks; computed when asked for."""

    def __init__(
        self,
        gradient_norms: jax.Array | None,
        params: dict[Path, jax.Array] | None,
        layout: Partition,
    ):
        """Holds the EMA norms and the parameters they belong to.

        Args:
            gradient_norms: f32[num_blocks], or None where no gradient is known.
            params: `layout.leaves(params)`, or None where `update` was called without parameters.
            layout: the partition.
        """
        self._gradient_norms = gradient_norms
        self._params = params
        self._layout = layout

    @property
    def gradient_norms(self) -> jax.Array:
        """EMA of the L2 norm of each block's raw gradient, f32[num_blocks].

        Raises:
            ValueError: if no gradient is known.
        """
        if self._gradient_norms is None:
            raise ValueError(
                "this capacity reads gradients, got none: pass gradients=, or choose one that "
                "reads parameters only ('effective_rank', 'jacobian_rank')."
            )
        return self._gradient_norms

    @property
    def params(self) -> dict[Path, jax.Array]:
        """The parameters that are in blocks, by path.

        Raises:
            ValueError: if `update` was called without parameters.
        """
        if self._params is None:
            raise ValueError(
                "this capacity reads the parameters: call update(updates, state, params), or "
                "choose one that reads gradients only ('rank', 'norm', 'energy', 'global_rank')."
            )
        return self._params

    @functools.cached_property
    def parameter_norms(self) -> jax.Array:
        """L2 norm of each block's parameters, f32[num_blocks]."""
        return roots(block_energies(self._layout, self.params))

    @functools.cached_property
    def effective_ranks(self) -> jax.Array:
        """Share of each block in the effective rank of its layer's matrix, f32[num_blocks].

        A layer's blocks share its `effective_rank` in proportion to their energy (squared norm), so
        they add up to it however finely it is cut, and a block that is nearly dead passes next to
        nothing. Not the blocks' own ranks: those add up to more, a wide layer of rank one would
        seem to pass one direction per block.

        A convolution kernel counts as the matrix from its patch (height x width x channels in) to
        its channels out, at one position; a vector as the diagonal matrix that scales by it.
        """
        layers = self._layout.layers
        if not layers:
            return jnp.zeros(0, jnp.float32)
        ranks = jnp.stack([_layer_rank(layer, self.params[layer.path]) for layer in layers])
        of_block = self._layout.block_layer
        energies = block_energies(self._layout, self.params)
        whole = jax.ops.segment_sum(energies, of_block, len(layers), indices_are_sorted=True)
        return ranks[of_block] * _ratio(energies, whole[of_block])


def effective_rank(matrix: jax.Array) -> jax.Array:
    """Effective rank of a matrix, `tr(G)^2 / |G|_F^2` with the Gram matrix `G = W^H W`.

    In singular values (sum s^2)^2 / sum s^4: n for n equal ones, 1 for rank one, 0 for the zero
    matrix, and never above the rank. It needs no eigenvalues, and it is subadditive: the effective
    rank of a matrix is at most the sum over any partition of its columns, as for the rank itself.

    Args:
        matrix: f32[m, n] or c64[m, n], with a norm between about 1e-18 and 1e18.

    Returns:
        f32[].
    """
    if matrix.shape[1] > matrix.shape[0]:
        matrix = matrix.T
    gram = jnp.matmul(matrix.conj().T, matrix, precision=jax.lax.Precision.HIGHEST)
    gram = gram / _scale(jnp.diagonal(gram).real)
    return _ratio(jnp.square(jnp.trace(gram).real), jnp.square(jnp.abs(gram)).sum())


def _layer_rank(layer: Layer | GridLayer, matrix: jax.Array) -> jax.Array:
    dtype = jnp.complex64 if jnp.iscomplexobj(matrix) else jnp.float32
    matrix = jnp.asarray(matrix).astype(dtype)
    if matrix.ndim < 2:
        squares = jnp.square(jnp.abs(matrix / _scale(jnp.abs(matrix))))
        return _ratio(jnp.square(squares.sum()), jnp.square(squares).sum())
    units = jnp.moveaxis(matrix, layer.unit_axis, -1)
    return effective_rank(units.reshape(-1, units.shape[-1]))


def roots(energies: jax.Array) -> jax.Array:
    """Square roots whose derivative at 0 is 0, not infinite: a dead block must not make NaNs.

    Args:
        energies: f32[n], not negative.

    Returns:
        f32[n].
    """
    is_positive = energies > 0
    return jnp.where(is_positive, jnp.sqrt(jnp.where(is_positive, energies, 1.0)), 0.0)


def _scale(sizes: jax.Array) -> jax.Array:
    """The largest size, to divide by; a constant, since it cancels in every use, slopes too."""
    return jax.lax.stop_gradient(jnp.maximum(sizes.max(), _TINY))


def _ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
    """Returns part / whole, and 0 with derivative 0 where the whole is 0."""
    is_positive = whole >= _TINY
    return jnp.where(is_positive, part / jnp.where(is_positive, whole, 1.0), 0.0)


def rank_within(values: jax.Array, groups: np.ndarray) -> jax.Array:
    """Returns `.1 + .9 rank / (n - 1)` of each value among the n of its group; 1 where n is 1.

    Rank 0 is the smallest; equal values are ranked in their order (Definition 2 of the study).

    Args:
        values: f[n].
        groups: i32[n], sorted group indices.

    Returns:
        f32[n] in [.1, 1].
    """
    if not len(groups):
        return jnp.zeros(0, jnp.float32)
    sizes = np.bincount(groups)
    starts = (np.cumsum(sizes) - sizes)[groups]
    order = jnp.lexsort((values, jnp.asarray(groups)))
    position = (
        jnp.zeros(len(groups), jnp.int32)
        .at[order]
        .set(jnp.arange(len(groups), dtype=jnp.int32), unique_indices=True)
    )
    last = sizes[groups] - 1
    share = (position - starts).astype(jnp.float32) / np.maximum(last, 1).astype(np.float32)
    return jnp.where(last > 0, jnp.float32(0.1) + jnp.float32(0.9) * share, jnp.float32(1.0))


CapacityFn = Callable[[Statistics, Partition], jax.Array]


class CapacityRule(NamedTuple):
    """A capacity function, and which mean of the gradient norm it is a function of.

    Attributes:
        function: (statistics, partition) -> f[num_blocks].
        moment: the EMA runs over norm**moment; 2 makes squared norms add up exactly.
        counts_directions: whether the capacity is a number of directions; an identity edge then has
            at most its width.
        per_position: whether it is one at each position, to be multiplied by the positions at which
            an edge is applied.
    """

    function: CapacityFn
    moment: int = 1
    counts_directions: bool = False
    per_position: bool = False

    def block_capacities(self, known: Statistics, layout: Partition) -> jax.Array:
        """Applies the function and checks its shape.

        Args:
            known: the statistics of the blocks.
            layout: the partition.

        Returns:
            f32[num_blocks].

        Raises:
            ValueError: if the function returns another shape, or reads what is not known.
        """
        capacities = self.function(known, layout)
        if jnp.shape(capacities) != (layout.num_blocks,):
            raise ValueError(
                f"a capacity must return one number per block, shape ({layout.num_blocks},), "
                f"got shape {jnp.shape(capacities)}."
            )
        return jnp.asarray(capacities).astype(jnp.float32)


def _relative(statistics: Statistics, _: Partition) -> jax.Array:
    return statistics.gradient_norms / jnp.maximum(statistics.parameter_norms, _TINY)


CAPACITIES: dict[str, CapacityRule] = {
    "rank": CapacityRule(
        lambda known, layout: rank_within(known.gradient_norms, layout.block_layer)
    ),
    "norm": CapacityRule(lambda known, _: known.gradient_norms),
    "energy": CapacityRule(lambda known, _: jnp.square(known.gradient_norms), moment=2),
    "global_rank": CapacityRule(
        lambda known, layout: rank_within(known.gradient_norms, np.zeros_like(layout.block_layer))
    ),
    "relative": CapacityRule(_relative),
    "sensitivity": CapacityRule(lambda known, _: known.parameter_norms * known.gradient_norms),
    "effective_rank": CapacityRule(lambda known, _: known.effective_ranks, counts_directions=True),
    "jacobian_rank": CapacityRule(
        lambda known, _: known.effective_ranks, counts_directions=True, per_position=True
    ),
}


def capacity_rule(capacity: str | CapacityFn | CapacityRule) -> CapacityRule:
    """Looks a capacity up by name, or makes a rule of a function of (statistics, partition).

    Raises:
        ValueError: if the name is unknown.
    """
    if isinstance(capacity, CapacityRule):
        return capacity
    if callable(capacity):
        return CapacityRule(capacity)
    if capacity not in CAPACITIES:
        raise ValueError(
            f"capacity must be one of {', '.join(CAPACITIES)} or a function of "
            f"(statistics, partition), got {capacity!r}."
        )
    return CAPACITIES[capacity]
