"""Running mean and standard error of a tree, from the means of batches of a correlated series."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pfn_optax.dynamics.gradients.segments import Plan


class BatchMeans(NamedTuple):
    """Welford's recursion over the means of batches.

    Attributes:
        total: tree, the sum of everything.
        part: tree, the sum over the batch that is open.
        size: f[], number of steps in it.
        mean: tree, the mean of the closed batches' means.
        squares: tree, the sum of their squared deviations.
        number: f[], of closed batches.
    """

    total: Any
    part: Any
    size: jax.Array
    mean: Any
    squares: Any
    number: jax.Array


def accumulator(params: Any) -> Any:
    """Zeros like the parameters, in float32 at least."""

    def zeros(leaf):
        dtype = jnp.result_type(leaf)
        return jnp.zeros(jnp.shape(leaf), dtype if dtype.itemsize >= 4 else jnp.float32)

    return jax.tree.map(zeros, params)


def add(total: Any, term: Any) -> Any:
    """Adds a tree to an accumulator."""
    return jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, term)


def start(params: Any) -> BatchMeans:
    """Nothing yet."""
    zeros = accumulator(params)
    return BatchMeans(zeros, zeros, jnp.float32(0), zeros, zeros, jnp.float32(0))


def append(batches: BatchMeans, segment: Any, size: int, closes: jax.Array) -> BatchMeans:
    """Adds the sum over a segment of `size` steps; `closes` says that its batch ends with it."""
    total, part = add(batches.total, segment), add(batches.part, segment)
    steps, number = batches.size + size, batches.number + 1
    deviation = jax.tree.map(lambda p, m: p / steps.astype(p.dtype) - m, part, batches.mean)
    mean = jax.tree.map(lambda m, d: m + d / number.astype(d.dtype), batches.mean, deviation)
    shrink = 1 - 1 / number
    squares = jax.tree.map(
        lambda s, d: s + d * d * shrink.astype(d.dtype), batches.squares, deviation
    )
    zeros = jax.tree.map(jnp.zeros_like, part)
    closed = BatchMeans(total, zeros, jnp.zeros_like(steps), mean, squares, number)
    opened = BatchMeans(total, part, steps, batches.mean, batches.squares, batches.number)
    return jax.tree.map(lambda a, b: jnp.where(closes, a, b), closed, opened)


def closes_batch(segment: jax.Array, plan: Plan, *, is_reversed: bool) -> jax.Array:
    """Whether the next segment that is gone through belongs to another batch, or there is none."""
    following = segment - 1 if is_reversed else segment + 1
    is_end = (following < 0) | (following >= plan.num_segments)
    return is_end | (plan.batch_of(following) != plan.batch_of(segment))


def conclude(batches: BatchMeans, num_steps: int, params: Any) -> tuple[Any, Any]:
    """Returns mean and standard error, in the dtypes of the parameters.

    Args:
        batches: of one series, every leaf with a leading axis of groups: independent series.
        num_steps: length of a series.
        params: tree whose dtypes to take.
    """
    num_groups = len(batches.number)
    number = jnp.sum(batches.number)

    def error(mean, squares):
        inner = jnp.sum(squares, axis=0)
        weights = batches.number.astype(mean.dtype).reshape((-1,) + (1,) * (mean.ndim - 1))
        center = jnp.sum(weights * mean, axis=0, keepdims=True) / number.astype(mean.dtype)
        outer = jnp.sum(weights * (mean - center) ** 2, axis=0)
        count = number.astype(mean.dtype)
        spread = (inner + outer) / (count * jnp.maximum(count - 1, 1))
        return jnp.where(count > 1, jnp.sqrt(spread), jnp.inf)

    means = jax.tree.map(lambda total: total.sum(axis=0) / (num_steps * num_groups), batches.total)
    errors = jax.tree.map(error, batches.mean, batches.squares)

    def like(tree):
        return jax.tree.map(lambda x, p: x.astype(jnp.result_type(p)), tree, params)

    return like(means), like(errors)


def one_group(batches: BatchMeans) -> BatchMeans:
    """Gives a single series the leading axis of groups."""
    return jax.tree.map(lambda leaf: leaf[None], batches)


def error_of_mean(values: jax.Array, plan: Plan) -> jax.Array:
    """Standard error of the mean of f[groups, K, L] over everything, from the same batches."""
    segments = values.mean(axis=2)
    batch = plan.batch_of(jnp.arange(plan.num_segments))
    member = (batch[None] == jnp.arange(plan.num_batches)[:, None]).astype(values.dtype)
    means = segments @ (member / member.sum(axis=1, keepdims=True)).T
    if means.size == 1:
        return jnp.full((), jnp.inf, values.dtype)
    return jnp.std(means, ddof=1) / means.size**0.5
