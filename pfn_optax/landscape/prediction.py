"""What a split does to the Hessian of a critical point, without the Hessian."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from pfn_optax.curvature import Inertia, inertia
from pfn_optax.precision import as_double, double_precision


def predicted_inertia(
    activation: Callable[[jax.Array], jax.Array],
    inputs: ArrayLike,
    incoming: ArrayLike,
    outgoing: ArrayLike,
    errors: ArrayLike,
    *,
    alpha: float = 0.5,
    tolerance: float | None = None,
) -> Inertia:
    r"""Predicts how many directions down, level and up the split of a unit adds.

    .. math::

        \mathrm{In}(H_\text{wide}) = \mathrm{In}(H_\text{narrow}) + \mathrm{In}
        \begin{pmatrix} \alpha (1 - \alpha) S & C \\ C^T & 0 \end{pmatrix}, \quad
        S = \sum_n (e_n \cdot a) \, s''(w \cdot x_n) \, x_n x_n^T, \quad
        C = \sum_n s'(w \cdot x_n) \, x_n e_n^T

    The move that pulls two copies apart, (w + (1 - alpha) v, w - alpha v) and (alpha a + b,
    (1 - alpha) a - b), does not change the outputs to first order, so it meets the rest of the
    Hessian nowhere: the block on (v, b) stands alone. This holds at any point of any layer that
    computes s(W x) for a next layer that sums A s(W x). Where the point is critical, C a = 0 adds
    the direction of a as a zero; that of alpha itself.

    Args:
        activation: s, of a number, twice differentiable.
        inputs: what the layer reads, f[num_examples, d]; a bias is a column of ones.
        incoming: the weights w of the unit that is split, f[d].
        outgoing: its weights a, f[p].
        errors: e, the gradient of the loss (the mean over examples) by each of the p sums,
            f[num_examples, p].
        alpha: the share of the first copy.
        tolerance: what counts as zero, as for `inertia`.

    Returns:
        The inertia of the block, of d + p directions, in float64.

    Raises:
        ValueError: if the shapes do not fit each other, or as `inertia`.

    Example:
        A unit that does not move the outputs yet (a = 0) in a net with an error to correct: one
        direction down and one up for every way to make use of it.

        >>> import jax.numpy as jnp
        >>> from pfn_optax.landscape import predicted_inertia
        >>> added = predicted_inertia(jnp.tanh, [[1.0], [2.0]], [0.5], [0.0], [[0.3], [0.1]])
        >>> added.negative, added.zero, added.positive
        (1, 0, 1)

    Reference:
        Fukumizu, Amari, "Local minima and plateaus in hierarchical structures of multilayer
        perceptrons", Neural Networks 13, 2000 (one output; here any number).
    """
    shapes = [np.shape(array) for array in (inputs, incoming, outgoing, errors)]
    (num_examples, *_), (d, *_), (p, *_) = (shape or (0,) for shape in shapes[:3])
    if shapes != [(num_examples, d), (d,), (p,), (num_examples, p)]:
        raise ValueError(
            "predicted_inertia needs inputs f[n, d], incoming f[d], outgoing f[p] and errors "
            f"f[n, p], got the shapes {', '.join(map(str, shapes))}."
        )
    with double_precision():
        x, w, a, e = as_double([np.asarray(v, float) for v in (inputs, incoming, outgoing, errors)])
        slope = jax.grad(activation)
        sums = jnp.asarray(x @ w)
        bend = np.asarray(jax.vmap(jax.grad(slope))(sums))
        slopes = np.asarray(jax.vmap(slope)(sums))
    block = np.zeros((d + p, d + p))
    block[:d, :d] = alpha * (1 - alpha) * (x.T * (bend * (e @ a))) @ x
    block[:d, d:] = (x.T * slopes) @ e
    block[d:, :d] = block[:d, d:].T
    return inertia((block + block.T) / 2, tolerance=tolerance)
