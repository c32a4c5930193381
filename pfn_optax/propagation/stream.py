r"""Activation measures over more samples than fit at once, added up batch by batch inside a scan.

What is kept has a fixed size: the sum of h h^T over samples (width^2 numbers), or for wide layers
its sketch W = P^T (sum h h^T) P with a random Gaussian P of `sketch` columns (sketch^2 numbers, and
P is drawn anew from its key in every update).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pfn_optax.propagation.rank import cosine_of_sum, entropy_rank, require_matrix, unit_rows

_EXACT = jax.lax.Precision.HIGHEST


class ActivationStream(NamedTuple):
    """Sums over the samples so far.

    Attributes:
        count: i32[], samples.
        num_nonzero: i32[], samples that are not zero.
        direction: f[width], sum of the samples scaled to length 1.
        is_alive: bool[width], whether a unit was ever not zero.
        gram: f[k, k], sum of h h^T, k the width; or its sketch, k columns of it.
        key: random key of the sketch; None without one.
    """

    count: jax.Array
    num_nonzero: jax.Array
    direction: jax.Array
    is_alive: jax.Array
    gram: jax.Array
    key: jax.Array | None


class ActivationSummary(NamedTuple):
    """What the sums tell of all samples together.

    Attributes:
        count: i32[], samples.
        activation_rank: f[], as the function of this name.
        effective_rank: f[], as the function of this name; NaN from a sketch.
        mean_cosine: f[], as the function of this name.
        dead_units: f[], as the function of this name.
    """

    count: jax.Array
    activation_rank: jax.Array
    effective_rank: jax.Array
    mean_cosine: jax.Array
    dead_units: jax.Array


def stream_init(
    width: int, *, sketch: int | None = None, key: jax.Array | None = None, dtype: Any = None
) -> ActivationStream:
    r"""Starts a stream of activations.

    A sketch of k columns estimates the activation rank r by

    .. math:: \sum_{a \ne b} W_{aa} W_{bb} \Big/ \sum_{a \ne b} W_{ab}^2

    whose two sides have the expectations (tr M)^2 and |M|_F^2, up to one factor, and which is exact
    for r = 1. Its relative standard error is about 2 / k where the eigenvalues are equal. It is the
    larger the further one of them stands above many others, up to about 2 / sqrt(k), and the
    estimate is then biased upwards by about a third of that.

    Args:
        width: number of units.
        sketch: columns of the sketch, 2 at least; none by default, and everything is exact.
        key: random key of the sketch, `jax.random.key(0)` by default.
        dtype: of the sums, the default real dtype if not given.

    Returns:
        The empty `ActivationStream`.

    Raises:
        ValueError: if a size is out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pfn_optax.propagation import stream_init, stream_read, stream_update
        >>> batches = jnp.stack([jnp.eye(8)[:4], jnp.eye(8)[4:]])
        >>> def add(stream, batch):
        ...     return stream_update(stream, batch), None
        >>> stream, _ = jax.lax.scan(add, stream_init(8), batches)
        >>> print(stream_read(stream).activation_rank, stream_read(stream).count)
        8.0 8
    """
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}.")
    if sketch is not None and sketch < 2:
        raise ValueError(f"sketch must have at least 2 columns, got {sketch}.")
    dtype = jnp.result_type(float) if dtype is None else dtype
    if sketch is not None:
        key = jax.random.key(0) if key is None else key
    size = width if sketch is None else sketch
    return ActivationStream(
        count=jnp.int32(0),
        num_nonzero=jnp.int32(0),
        direction=jnp.zeros(width, dtype),
        is_alive=jnp.zeros(width, bool),
        gram=jnp.zeros((size, size), dtype),
        key=None if sketch is None else key,
    )


def stream_update(stream: ActivationStream, activations: Any) -> ActivationStream:
    """Adds a batch; batches may differ in size.

    Args:
        stream: what `stream_init` or an earlier update returned.
        activations: f[batch, width].

    Returns:
        The stream with the batch in it.

    Raises:
        ValueError: if they are not a matrix of real floating numbers, or of another width.
    """
    matrix = require_matrix(activations).astype(stream.gram.dtype)
    width = len(stream.direction)
    if matrix.shape[1] != width:
        raise ValueError(f"this stream is of {width} units, got activations {matrix.shape}.")
    directions, num_nonzero = unit_rows(matrix)
    seen = matrix
    if stream.key is not None:
        projection = jax.random.normal(stream.key, (width, len(stream.gram)), matrix.dtype)
        seen = jnp.matmul(matrix, projection, precision=_EXACT)
    return ActivationStream(
        count=stream.count + len(matrix),
        num_nonzero=stream.num_nonzero + num_nonzero.astype(jnp.int32),
        direction=stream.direction + directions.sum(axis=0),
        is_alive=stream.is_alive | (matrix != 0).any(axis=0),
        gram=stream.gram + jnp.matmul(seen.T, seen, precision=_EXACT),
        key=stream.key,
    )


def stream_read(stream: ActivationStream) -> ActivationSummary:
    """Returns the measures of all samples so far.

    Exact up to rounding without a sketch; the effective rank, from squared singular values, sees
    those below the root of the machine epsilon (3e-4 in float32) of the largest as rounding leaves
    them.

    Args:
        stream: at any time; of an empty one the measures are 0 or NaN.

    Returns:
        The `ActivationSummary`.
    """
    largest = jnp.max(jnp.abs(stream.gram))
    gram = stream.gram / jnp.where(largest == 0, 1.0, largest)
    diagonal = jnp.diagonal(gram)
    if stream.key is None:
        above, below = jnp.sum(diagonal) ** 2, jnp.sum(gram**2)
        # A NaN would make eigh look for one for ever on some backends.
        is_finite = jnp.isfinite(largest)
        values = jnp.linalg.eigvalsh(jnp.where(is_finite, gram, 0.0))
        effective = entropy_rank(jnp.sqrt(jnp.maximum(values, 0.0)))
        effective = jnp.where(is_finite, effective, jnp.nan)
    else:
        above = jnp.sum(diagonal) ** 2 - jnp.sum(diagonal**2)
        below = jnp.sum(gram**2) - jnp.sum(diagonal**2)
        effective = jnp.full_like(above, jnp.nan)
    return ActivationSummary(
        count=stream.count,
        activation_rank=jnp.where(below == 0, 0.0, above / jnp.where(below == 0, 1.0, below)),
        effective_rank=effective,
        mean_cosine=cosine_of_sum(stream.direction, stream.num_nonzero),
        dead_units=jnp.mean(~stream.is_alive, dtype=stream.direction.dtype),
    )
