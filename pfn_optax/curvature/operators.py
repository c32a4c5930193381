"""Curvature as a linear operator on the tree of parameters: vector in, product out.

The products are compiled once per loss, take parameters and data as arguments, which may be
sharded, and keep the tree. Nothing of the size of the matrix is ever formed.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.paths import named_leaves

Product = Callable[..., Any]
"""(params, vector, *args) -> the curvature at `params` times `vector`."""

Batches = Iterable[Any] | Callable[[], Iterable[Any]]
"""Batches that can be gone through again: a list, a data loader, a function that makes either."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Operator:
    """A symmetric operator on one batch; a pytree, so it can be an argument of a jitted function.

    Attributes:
        product: (params, vector, *args) -> product. It is part of the program: operators with equal
            products share what is compiled.
        params: the point, a tree; vectors are trees like it.
        args: what else the product needs, as the batch.
    """

    product: Product = field(metadata={"static": True})
    params: Any
    args: tuple[Any, ...] = ()

    def __call__(self, vector: Any) -> Any:
        """Returns the product with a tree like the parameters."""
        return _apply(self.product, self.params, vector, *self.args)


@dataclass(frozen=True)
class BatchedOperator:
    """The mean of an operator over the batches of a data set, weighted by their sizes.

    Each product goes through the data once, one batch in memory at a time, so it runs on the host
    and cannot be part of a jitted function; the product on each batch is jitted.

    Attributes:
        product: as in `Operator`.
        params: the point.
        args: arguments before those of the batch.
        batches: the data.
    """

    product: Product
    params: Any
    args: tuple[Any, ...]
    batches: Batches

    def __call__(self, vector: Any) -> Any:
        """Returns the product with a tree like the parameters."""
        return self.mean(lambda operator: operator(vector))

    def mean(self, function: Callable[[Operator], Any]) -> Any:
        """Averages what is linear in the operator over the batches.

        Args:
            function: of the operator on one batch; returns a tree of arrays.

        Returns:
            The mean, weighted by the number of examples (the first axis) in each batch.

        Raises:
            ValueError: if there are no batches.
        """
        total, num_examples = None, 0
        for size, operator in self._parts():
            weighted = _scale(function(operator), float(size))
            total = weighted if total is None else _add(total, weighted)
            num_examples += size
        if not num_examples:
            raise ValueError("the data has no batches with examples: the mean is over nothing.")
        return _scale(total, 1 / num_examples)

    def _parts(self) -> Iterator[tuple[int, Operator]]:
        for batch in self.batches() if callable(self.batches) else self.batches:
            batch = batch if isinstance(batch, tuple) else (batch,)
            leaves = jax.tree.leaves(batch)
            if not leaves or not np.ndim(leaves[0]):
                raise ValueError(
                    "a batch must hold arrays whose first axis counts examples, got "
                    f"{jax.tree.map(np.shape, batch)}."
                )
            yield np.shape(leaves[0])[0], Operator(self.product, self.params, (*self.args, *batch))


AnyOperator = Operator | BatchedOperator


def hessian_operator(
    loss: Callable[..., jax.Array], params: Any, *args: Any, batches: Batches | None = None
) -> AnyOperator:
    r"""Returns the Hessian of a loss at a point, as an operator.

    .. math:: H v = \frac{d}{d\epsilon} \nabla L(\theta + \epsilon v) \big|_{\epsilon = 0}

    Forward over reverse: a product takes the time of some two gradients.

    Args:
        loss: (params, *args, *batch) -> f[]. For the mean over `batches` to be the loss on all
            data, it must itself be a mean over examples.
        params: a tree of real floating-point arrays.
        *args: passed on to `loss`.
        batches: data to average over: tuples of arguments of `loss` (or single arguments), in
            anything that can be gone through again, or in a function that returns an iterator.

    Returns:
        An `Operator`; with `batches` a `BatchedOperator`.

    Raises:
        ValueError: if `params` is empty or has a leaf that is not real floating point, or `batches`
            can be gone through only once.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.curvature import hessian_operator
        >>> operator = hessian_operator(lambda p: p["a"] ** 2 * p["b"], {"a": 3.0, "b": 5.0})
        >>> print(operator({"a": jnp.float32(1), "b": jnp.float32(0)}))
        {'a': Array(10., dtype=float32), 'b': Array(6., dtype=float32)}

    Reference:
        Pearlmutter 1994, "Fast exact multiplication by the Hessian".
    """
    return _operator(_Hessian(loss), params, args, batches)


def gauss_newton_operator(
    model: Callable[..., Any],
    loss: Callable[..., jax.Array],
    params: Any,
    *args: Any,
    batches: Batches | None = None,
) -> AnyOperator:
    r"""Returns the generalised Gauss-Newton matrix at a point, as an operator.

    .. math:: G v = J^T \, \nabla^2 \ell(f) \, J v

    with the Jacobian J of the model's outputs f and the loss :math:`\ell` of these. It is the
    Hessian without the model's own curvature, and positive semidefinite where the loss is convex
    in the outputs.

    Args:
        model: (params, inputs) -> outputs.
        loss: (outputs, *targets) -> f[], a mean over examples.
        params: a tree of real floating-point arrays.
        *args: the inputs and the targets, unless they come in `batches`.
        batches: as in `hessian_operator`; of (inputs, *targets).

    Returns:
        An `Operator`; with `batches` a `BatchedOperator`.

    Raises:
        ValueError: as `hessian_operator`.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.curvature import gauss_newton_operator
        >>> operator = gauss_newton_operator(
        ...     lambda p, x: jnp.exp(p * x), lambda f, y: jnp.mean((f - y) ** 2) / 2,
        ...     jnp.float32(0), jnp.array([1.0, 2.0]), jnp.array([0.0, 0.0]),
        ... )  # fmt: skip
        >>> print(operator(jnp.float32(1)))
        2.5

    Reference:
        Schraudolph 2002, "Fast curvature matrix-vector products for second-order gradient descent".
    """
    return _operator(_GaussNewton(model, loss), params, args, batches)


def _operator(
    product: Product, params: Any, args: tuple[Any, ...], batches: Batches | None
) -> AnyOperator:
    params = _real_arrays(params)
    if batches is None:
        return Operator(product, params, args)
    if isinstance(batches, Iterator):
        raise ValueError(
            "batches is an iterator, which is empty after the first product; pass a list, or a "
            "function that returns a fresh iterator."
        )
    return BatchedOperator(product, params, args, batches)


def _real_arrays(params: Any) -> Any:
    leaves = named_leaves(params)
    if not leaves:
        raise ValueError("params has no leaves: there is no curvature of nothing.")
    for path, leaf in leaves:
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            remedy = (
                "split it into its real and imaginary parts"
                if jnp.issubdtype(dtype, jnp.complexfloating)
                else "keep it out of params, as an argument of the loss"
            )
            raise ValueError(
                f"params at {'/'.join(path) or 'the root'} is {dtype}; curvature needs real "
                f"floating point: {remedy}."
            )
    return jax.tree.map(jnp.asarray, params)


@dataclass(frozen=True)
class _Hessian:
    """Products with the Hessian of a loss; equal for equal losses."""

    loss: Callable[..., jax.Array]

    def __call__(self, params: Any, vector: Any, *args: Any) -> Any:
        def gradient(params):
            return jax.grad(self.loss)(params, *args)

        return jax.jvp(gradient, (params,), (vector,))[1]


@dataclass(frozen=True)
class _GaussNewton:
    """Products with the Gauss-Newton matrix; equal for equal models and losses."""

    model: Callable[..., Any]
    loss: Callable[..., jax.Array]

    def __call__(self, params: Any, vector: Any, inputs: Any, *targets: Any) -> Any:
        def outputs(params):
            return self.model(params, inputs)

        def gradient(outputs):
            return jax.grad(self.loss)(outputs, *targets)

        at, forward = jax.jvp(outputs, (params,), (vector,))
        curved = jax.jvp(gradient, (at,), (forward,))[1]
        return jax.vjp(outputs, params)[1](curved)[0]


@jax.jit
def _add(left: Any, right: Any) -> Any:
    return jax.tree.map(jnp.add, left, right)


@jax.jit
def _scale(tree: Any, factor: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf * factor, tree)


def _multiply(product: Product, params: Any, vector: Any, *args: Any) -> Any:
    """In the parameters' precision, whatever that of the vector, which gets its own back."""
    narrow = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), vector, params)
    result = product(params, narrow, *args)
    return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), result, vector)


_apply = jax.jit(_multiply, static_argnums=0)
