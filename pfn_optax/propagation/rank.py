r"""How many directions a batch of activations still spans, and how evenly.

A batch is H, one row of `width` numbers for each sample. With N columns, M = H H^T / N. All
measures but `mean_cosine` are of the singular values of H, so they are the same for H^T H, for
rotated samples or units, and for any scale of H. To measure many batches, `jax.vmap`; to measure
more than fits into memory, `activation_stream`.
"""

from typing import Any

import jax
import jax.numpy as jnp

_EXACT = jax.lax.Precision.HIGHEST  # also where products of float32 are rounded by default


def activation_rank(activations: Any) -> jax.Array:
    r"""Returns the rank in the sense of two norms, which noise hardly raises.

    .. math:: r(H) = (\mathrm{tr} M)^2 / \|M\|_F^2

    From 1, all samples parallel, to the smaller side of H, all orthogonal and of equal length.

    Args:
        activations: f[batch, width].

    Returns:
        f32[] (f64[] of float64); 0 if all are zero, NaN if one is not finite.

    Raises:
        ValueError: if they are not a matrix of real floating numbers with something in it.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.propagation import activation_rank
        >>> print(activation_rank(jnp.eye(5)), activation_rank(jnp.ones((5, 3))))
        5.0 1.0

    Reference:
        Daneshmand, Kohler, Bach, Hofmann, Lucchi, "Batch normalization provably avoids rank
        collapse for randomly initialised deep networks", NeurIPS 2020.
    """
    gram = _gram(_unit_scale(require_matrix(activations)))
    norm = jnp.sum(gram**2)
    return jnp.where(norm == 0, 0.0, jnp.trace(gram) ** 2 / jnp.where(norm == 0, 1.0, norm))


def effective_rank(activations: Any) -> jax.Array:
    r"""Returns the exponential of the entropy of the normalised singular values.

    .. math:: \exp \Big( -\sum_i p_i \ln p_i \Big), \quad p_i = \sigma_i / \sum_j \sigma_j

    Of the singular values themselves, not of their squares.

    Args:
        activations: f[batch, width].

    Returns:
        As `activation_rank`.

    Raises:
        ValueError: as `activation_rank`.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.propagation import effective_rank
        >>> print(effective_rank(jnp.eye(4)).round(3))
        4.0

    Reference:
        Roy & Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.
    """
    return entropy_rank(_singular_values(require_matrix(activations)))


def entropy_rank(values: jax.Array) -> jax.Array:
    """Returns the effective rank from singular values of any scale, f[k] -> f[]."""
    total = jnp.sum(values)
    share = values / jnp.where(total == 0, 1.0, total)
    entropy = -jnp.sum(share * jnp.log(jnp.where(share > 0, share, 1.0)))
    return jnp.where(total == 0, 0.0, jnp.exp(entropy))


def numerical_rank(activations: Any, *, tolerance: float | None = None) -> jax.Array:
    """Returns the number of singular values above a share of the largest.

    Args:
        activations: f[batch, width].
        tolerance: that share; by default what rounding may leave, max(batch, width) times the
            machine epsilon.

    Returns:
        i32[]; 0 if all are zero, -1 if one is not finite.

    Raises:
        ValueError: as `activation_rank`, or if the tolerance is not in [0, 1).

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.propagation import numerical_rank
        >>> print(numerical_rank(jnp.ones((5, 3))))
        1
    """
    matrix = require_matrix(activations)
    values = _singular_values(matrix)
    rank = jnp.sum(values > _threshold(matrix, values, tolerance))
    return jnp.where(jnp.isfinite(values[0]), rank, -1).astype(jnp.int32)


def mean_cosine(activations: Any) -> jax.Array:
    """Returns the mean cosine of the angles between two samples: 1 when all point the same way.

    Args:
        activations: f[batch, width]. Samples that are zero have no angle, and are left out.

    Returns:
        f32[] (f64[] of float64); NaN with fewer than two samples that are not zero.

    Raises:
        ValueError: as `activation_rank`.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.propagation import mean_cosine
        >>> print(mean_cosine(jnp.eye(3)), mean_cosine(jnp.ones((3, 2))).round(3))
        0.0 1.0
    """
    directions, num = unit_rows(require_matrix(activations))
    return cosine_of_sum(jnp.sum(directions, axis=0), num)


def unit_rows(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the rows scaled to length 1, zero where they are zero, and how many are not."""
    largest = jnp.max(jnp.abs(matrix), axis=1, keepdims=True)
    is_zero = largest == 0
    scaled = matrix / jnp.where(is_zero, 1.0, largest)
    lengths = jnp.sqrt(jnp.sum(scaled**2, axis=1, keepdims=True))
    return scaled / jnp.where(is_zero, 1.0, lengths), jnp.sum(~is_zero)


def cosine_of_sum(total: jax.Array, num: jax.Array) -> jax.Array:
    """Returns the mean cosine between `num` unit vectors from their sum: |sum|^2 has every pair."""
    num = num.astype(total.dtype)
    pairs = num * (num - 1)
    return jnp.where(pairs > 0, (jnp.sum(total**2) - num) / jnp.where(pairs > 0, pairs, 1), jnp.nan)


def isometry_gap(activations: Any, *, tolerance: float | None = None) -> jax.Array:
    r"""Returns how far the samples are from orthogonal and equally long.

    .. math:: \ln \Big( \frac{1}{n} \sum_i \lambda_i \Big) - \frac{1}{n} \sum_i \ln \lambda_i

    with the eigenvalues of the Gram matrix on the smaller side of H (on the larger, some are zero
    for want of room).

    Args:
        activations: f[batch, width].
        tolerance: singular values up to this share of the largest count as zero; by default
            what rounding may leave, max(batch, width) times the machine epsilon.

    Returns:
        f32[] (f64[] of float64), in nats, not negative: 0 for an isometry, infinite if an
        eigenvalue is zero, NaN if an activation is not finite.

    Raises:
        ValueError: as `activation_rank`, or if the tolerance is not in [0, 1).

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.propagation import isometry_gap
        >>> print(isometry_gap(2 * jnp.eye(3)), isometry_gap(jnp.ones((3, 3))))
        0.0 inf

    Reference:
        Joudaki, Daneshmand, Bach, "On the impact of activation and normalization in obtaining
        isometric embeddings at initialization", NeurIPS 2023.
    """
    matrix = require_matrix(activations)
    values = _singular_values(matrix)
    is_zero = values <= _threshold(matrix, values, tolerance)
    logs = jnp.log(jnp.where(is_zero, 1.0, values / jnp.where(is_zero, 1.0, values[0])))
    relative = values / jnp.where(values[0] == 0, 1.0, values[0])
    gap = jnp.log(jnp.mean(relative**2)) - 2 * jnp.mean(logs)
    return jnp.where(is_zero.any(), jnp.inf, jnp.maximum(gap, 0.0))


def singular_values(kernel: Any) -> jax.Array:
    """Returns the singular values of activations or of a kernel, largest first.

    Args:
        kernel: f[batch, width], or weights f[..., fan_in, fan_out]: all axes but the last are one,
            as in a convolution from patches to channels.

    Returns:
        f32[k] (f64[k] of float64), k the smaller side of that matrix; NaN if one entry is not
        finite.

    Raises:
        ValueError: if there are fewer than two axes, no entries, or they are not real and floating.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.propagation import singular_values
        >>> print(singular_values(jnp.ones((3, 3, 4, 16)))[:1].round(2))
        [24.]
    """
    return _singular_values(as_matrix(kernel))


def singular_profile(kernel: Any, *, num_points: int = 16) -> jax.Array:
    r"""Returns how the singular values decay, at places that layers of any width share.

    .. math:: \ln (\sigma_{t (k - 1)} / \sigma_0), \quad t = 0, \ldots, 1

    in even steps of t, with linear interpolation between two.

    Args:
        kernel: as for `singular_values`.
        num_points: how many places, 2 at least.

    Returns:
        f32[num_points] (f64 of float64), in nats, from 0 down. What rounding may leave of zero,
        max(sides) times the machine epsilon, is the lowest value there is.

    Raises:
        ValueError: as `singular_values`, or if there are too few points.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.propagation import singular_profile
        >>> print(singular_profile(jnp.diag(jnp.exp(-jnp.arange(5.0))), num_points=3).round(3))
        [ 0. -2. -4.]
    """
    if num_points < 2:
        raise ValueError(f"num_points must be at least 2, got {num_points}.")
    matrix = as_matrix(kernel)
    values = _singular_values(matrix)
    least = max(matrix.shape) * float(jnp.finfo(matrix.dtype).eps)
    relative = values / jnp.where(values[0] == 0, 1.0, values[0])
    places = jnp.linspace(0.0, len(values) - 1.0, num_points, dtype=matrix.dtype)
    here = jnp.arange(len(values), dtype=matrix.dtype)
    return jnp.interp(places, here, jnp.log(jnp.maximum(relative, least)))


def require_matrix(activations: Any) -> jax.Array:
    """Returns the activations, f[batch, width], in float32 at least.

    Raises:
        ValueError: if they are not a matrix of real floating numbers with something in it.
    """
    if jnp.ndim(activations) != 2:
        raise ValueError(
            f"activations must be a matrix, one row a sample, got shape {jnp.shape(activations)}: "
            "reshape(len(x), -1) takes a sample as a row, reshape(-1, x.shape[-1]) each position; "
            "jax.vmap maps over many batches."
        )
    return as_matrix(activations)


def as_matrix(kernel: Any) -> jax.Array:
    """Returns a kernel as f[all but the last axis, last axis], in float32 at least.

    Raises:
        ValueError: if there are fewer than two axes, no entries, or they are not real and floating.
    """
    shape, dtype = jnp.shape(kernel), jnp.result_type(kernel)
    if len(shape) < 2 or 0 in shape:
        raise ValueError(
            f"singular values are of arrays with two axes or more and no empty one, got shape "
            f"{shape}."
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"measures are of real floating numbers, got {dtype}: convert them first.")
    wide = jnp.asarray(kernel, jnp.promote_types(dtype, jnp.float32))
    return wide.reshape(-1, shape[-1])


def _unit_scale(matrix: jax.Array) -> jax.Array:
    """The largest entry 1: fourth powers of it stay within float32."""
    largest = jnp.max(jnp.abs(matrix))
    return matrix / jnp.where(largest == 0, 1.0, largest)


def _gram(matrix: jax.Array) -> jax.Array:
    """On the smaller side."""
    rows = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return jnp.matmul(rows, rows.T, precision=_EXACT)


def _singular_values(matrix: jax.Array) -> jax.Array:
    return jnp.linalg.svd(matrix, compute_uv=False)


def _threshold(matrix: jax.Array, values: jax.Array, tolerance: float | None) -> jax.Array:
    if tolerance is not None and not 0 <= tolerance < 1:
        raise ValueError(f"tolerance must be at least 0 and less than 1, got {tolerance}.")
    if tolerance is None:
        tolerance = max(matrix.shape) * float(jnp.finfo(matrix.dtype).eps)
    return tolerance * values[0]
