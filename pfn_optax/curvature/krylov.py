"""An orthonormal basis of a Krylov space, grown one product at a time, on trees.

The basis is a tree like the parameters with one more axis in front, so vectors are never ravelled.
Each product is orthogonalised against the whole basis, again where that cancelled: Lanczos with
full re-orthogonalisation, which costs memory and buys that no eigenvalue is found more often than
it is there.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST  # orthogonality is lost in the fast modes of accelerators


class Krylov(NamedTuple):
    """A basis V of m + 1 orthonormal vectors, with V[:m] A V[:m]^T and what A makes beyond it.

    Attributes:
        basis: tree of f[m + 1, *shape]; rows not grown yet are zero.
        projected: f[m, m], column j grown with row j. The part below the diagonal is known twice:
            it holds the norms that the recurrence expects, and its difference from the transposed
            upper part is the rounding error.
        remainder: f[], norm of the part of the last product that leads out of the space.
        is_finite: bool[], whether all products were.
    """

    basis: Any
    projected: jax.Array
    remainder: jax.Array
    is_finite: jax.Array


class Loops(NamedTuple):
    """The control flow: that of `lax`, or the host's for products that cannot be traced."""

    repeat: Callable[..., Any]
    until: Callable[..., Any]
    choose: Callable[..., Any]


def _repeat(first: Any, end: Any, body: Callable[..., Any], carry: Any) -> Any:
    for index in range(int(first), int(end)):
        carry = body(index, carry)
    return carry


def _until(is_unfinished: Callable[..., Any], body: Callable[..., Any], carry: Any) -> Any:
    while is_unfinished(carry):
        carry = body(carry)
    return carry


def _choose(condition: Any, then: Callable[..., Any], other: Callable[..., Any], *args: Any) -> Any:
    return then(*args) if condition else other(*args)


COMPILED = Loops(jax.lax.fori_loop, jax.lax.while_loop, jax.lax.cond)
ON_HOST = Loops(_repeat, _until, _choose)


def dtype_of(params: Any) -> jnp.dtype:
    """The precision of the basis: that of the parameters, and float32 at least."""
    return jnp.result_type(jnp.float32, *jax.tree.leaves(params))


@jax.jit
def random_vector(key: jax.Array, params: Any) -> Any:
    """Draws a tree like the parameters from the unit sphere."""
    leaves, structure = jax.tree.flatten(params)
    sizes = [jnp.size(leaf) for leaf in leaves]
    # In one draw, since each compiles for a good part of a second.
    flat = jax.random.normal(key, (sum(sizes),), dtype_of(params))
    parts = jnp.split(flat, list(itertools.accumulate(sizes))[:-1])
    drawn = [part.reshape(jnp.shape(leaf)) for part, leaf in zip(parts, leaves, strict=True)]
    return _unit(jax.tree.unflatten(structure, drawn))


@functools.partial(jax.jit, static_argnums=1)
def start(vector: Any, num_vectors: int) -> Krylov:
    """Returns the space of one vector.

    Args:
        vector: a tree of real arrays, not zero; need not be of norm 1.
        num_vectors: the dimension m that the space will have.

    Returns:
        A basis with one row.
    """

    def rows(leaf):
        return jnp.zeros((num_vectors + 1, *leaf.shape), leaf.dtype).at[0].set(leaf)

    dtype = dtype_of(vector)
    return Krylov(
        basis=jax.tree.map(rows, _unit(vector)),
        projected=jnp.zeros((num_vectors, num_vectors), dtype),
        remainder=jnp.zeros((), dtype),
        is_finite=jnp.array(True),
    )


def grow(
    product: Callable[[Any], Any], krylov: Krylov, first: Any, key: jax.Array, loops: Loops
) -> Krylov:
    """Fills the rows after `first`.

    Args:
        product: the operator.
        krylov: with rows 0 to `first`.
        first: number of the first row whose product is not in the space.
        key: for new directions where the space is closed under the operator.
        loops: `COMPILED`, or `ON_HOST`.

    Returns:
        The full space.
    """

    def step(index, krylov):
        return _absorb(krylov, product(_row(krylov.basis, index)), index, key)

    return loops.repeat(first, len(krylov.projected), step, krylov)


@jax.jit
def restart(krylov: Krylov, values: jax.Array, rotation: jax.Array) -> Krylov:
    """Keeps some Ritz vectors and the direction that leads out: a thick restart.

    Args:
        krylov: a full space.
        values: f[p], the Ritz values to keep.
        rotation: f[m, p], their vectors in the basis.

    Returns:
        A space with rows 0 to p.
    """
    num_kept = len(values)

    def rows(leaf):
        kept = jnp.tensordot(rotation.T, leaf[:-1], axes=1, precision=HIGHEST)
        return jnp.zeros_like(leaf).at[:num_kept].set(kept).at[num_kept].set(leaf[-1])

    projected = jnp.zeros_like(krylov.projected)
    return krylov._replace(
        basis=jax.tree.map(rows, krylov.basis),
        projected=projected.at[:num_kept, :num_kept].set(jnp.diag(values)),
    )


def symmetric(krylov: Krylov) -> jax.Array:
    """Returns the projected operator f[m, m]; zeros if it is not finite."""
    upper = jnp.triu(krylov.projected)
    return jnp.where(krylov.is_finite, upper + jnp.triu(upper, 1).T, 0)


@jax.jit
def combine(weights: jax.Array, basis: Any) -> Any:
    """Linear combinations of the rows: weights f[m] or f[p, m]."""
    return jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, 1, precision=HIGHEST), basis)


@jax.jit
def _absorb(krylov: Krylov, product: Any, index: Any, key: jax.Array) -> Krylov:
    """Orthogonalises the product of row `index`: its column, and row `index` + 1."""
    basis, projected = krylov.basis, krylov.projected
    column, rest = _recurrence(krylov, product, index)
    expected = _norm(rest)
    correction, rest = _project_out(basis, rest)

    def again():
        correction, twice = _project_out(basis, rest)
        return correction, twice, _norm(twice)

    # Cancellation leaves what is not orthogonal; then twice is enough (Daniel, Gragg, Kaufman &
    # Stewart 1976). Mostly once is, and to read the basis is the main cost of a step.
    remainder = _norm(rest)
    second, rest, remainder = jax.lax.cond(
        remainder < 0.7 * expected,
        again,
        lambda: (jnp.zeros_like(correction), rest, remainder),
    )
    column, size = column + correction + second, _norm(product)
    # What is left of a product inside the space is rounding: go on in any new direction.
    is_closed = remainder <= 10 * jnp.finfo(remainder.dtype).eps * size
    remainder = jnp.where(is_closed, 0, remainder)

    def fresh():
        vector = random_vector(jax.random.fold_in(key, index), _row(basis, 0))
        for _ in range(2):
            _, vector = _project_out(basis, vector)
        return _unit(vector)

    row = jax.lax.cond(is_closed, fresh, lambda: _divide(rest, remainder))
    return Krylov(
        basis=jax.tree.map(lambda leaf, new: leaf.at[index + 1].set(new), basis, row),
        projected=projected.at[:, index]
        .set(column[:-1])
        .at[index + 1, index]
        .set(remainder, mode="drop"),
        remainder=remainder,
        is_finite=krylov.is_finite & jnp.isfinite(size),
    )


@jax.jit
def _row(basis: Any, index: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], basis)


def _recurrence(krylov: Krylov, product: Any, index: Any) -> tuple[jax.Array, Any]:
    """Takes off the two components that are not small: the three-term recurrence."""
    row, before = _row(krylov.basis, index), _row(krylov.basis, jnp.maximum(index - 1, 0))
    along = _dot(row, product)
    back = krylov.projected[index, index - 1]  # 0 in the first row, and after a restart

    def rest(leaf, own, last):
        return leaf - along * own - back * last

    column = jnp.zeros(len(krylov.projected) + 1, along.dtype)
    column = column.at[index].set(along).at[index - 1].add(back)
    return column, jax.tree.map(rest, product, row, before)


def _project_out(basis: Any, vector: Any) -> tuple[jax.Array, Any]:
    leaves = zip(jax.tree.leaves(basis), jax.tree.leaves(vector), strict=True)
    products = [
        jnp.tensordot(rows, leaf, axes=leaf.ndim, precision=HIGHEST) for rows, leaf in leaves
    ]
    weights = jnp.asarray(sum(products))
    return weights, jax.tree.map(jnp.subtract, vector, combine(weights, basis))


def _dot(left: Any, right: Any) -> jax.Array:
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), left, right)
    return jnp.asarray(sum(jax.tree.leaves(products)))


def _norm(vector: Any) -> jax.Array:
    return jnp.sqrt(_dot(vector, vector))


def _divide(vector: Any, size: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: leaf / size, vector)


def _unit(vector: Any) -> Any:
    size = _norm(vector)
    return _divide(vector, jnp.where(size > 0, size, 1))
