"""The ends of the spectrum, with a residual norm for every pair: Lanczos with thick restarts."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.curvature import krylov as spaces
from pfn_optax.curvature.krylov import Krylov, Loops
from pfn_optax.curvature.operators import AnyOperator, Operator
from pfn_optax.curvature.status import CurvatureStatus, raise_if_nonfinite

Which = Literal["top", "bottom", "both"]


class Eigenpairs(NamedTuple):
    """Eigenvalues and eigenvectors, largest first.

    Attributes:
        values: f[k] (of both ends f[2 k]), descending.
        vectors: tree of f[k, *shape], orthonormal.
        residuals: f[k], the norms of A x - value x. An eigenvalue lies within that distance of each
            value; values that stand apart are far nearer (residual^2 / gap).
        num_products: i32[], products that it took.
        status: i32[], a `CurvatureStatus`.
    """

    values: jax.Array
    vectors: Any
    residuals: jax.Array
    num_products: jax.Array
    status: jax.Array


def extreme_eigenpairs(
    operator: AnyOperator,
    k: int = 1,
    *,
    which: Which = "top",
    tolerance: float = 1e-4,
    num_vectors: int | None = None,
    max_products: int = 1000,
    vector: Any = None,
    key: jax.Array | None = None,
) -> Eigenpairs:
    r"""Finds the eigenvalues at one end of the spectrum, or at both.

    Lanczos iteration with full re-orthogonalisation in a space of `num_vectors` vectors; when that
    is full, the best Ritz vectors are kept and the rest is grown anew, until each pair has

    .. math:: \|A x - \theta x\| \le \mathrm{tolerance} \, |\theta|

    or as little as rounding allows.

    Jittable for an `Operator`, then with the failure in `status`. An eigenvalue that is there
    several times may be found fewer times.

    Args:
        operator: of `hessian_operator` or `gauss_newton_operator`.
        k: number of eigenvalues at each end asked for.
        which: `"top"` for the largest, `"bottom"` for the smallest (most negative), or `"both"`.
        tolerance: relative residual norm to reach.
        num_vectors: dimension of the space, so many copies of the parameters in memory and one
            more. Default: twice the number of eigenvalues, 20 at least.
        max_products: bound on the number of products.
        vector: where to start, a tree like the parameters, such as an earlier eigenvector; random
            by default.
        key: of the random vectors, `jax.random.key(0)` by default.

    Returns:
        The pairs found; `UNCONVERGED` in the status where the bound was met first.

    Raises:
        ValueError: if more eigenvalues are asked for than the dimension, or an option is out of
            range.
        CurvatureError: outside jit, if a product is not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.curvature import extreme_eigenpairs, hessian_operator
        >>> scales = jnp.arange(-50.0, 50.0)
        >>> operator = hessian_operator(lambda p: jnp.sum(scales * p**2) / 2, jnp.ones(100))
        >>> found = extreme_eigenpairs(operator, 2, which="both")
        >>> print(found.values.round(2), (found.residuals < 0.01).all())
        [ 49.  48. -49. -50.] True

    Reference:
        Wu & Simon 2000, "Thick-restart Lanczos method for large symmetric eigenvalue problems".
    """
    dimension = sum(leaf.size for leaf in jax.tree.leaves(operator.params))
    if which not in get_args(Which):
        raise ValueError(f"which must be one of {', '.join(get_args(Which))}, got {which!r}.")
    num_wanted = 2 * k if which == "both" else k
    if not 1 <= num_wanted <= dimension:
        raise ValueError(
            f"k={k} at {which} asks for {num_wanted} eigenvalues; this operator has {dimension}."
        )
    if num_vectors is None:
        num_vectors = max(2 * num_wanted + 1, 20)
    num_vectors = min(num_vectors, dimension)
    # One beyond the wanted is needed to have something to grow after a restart.
    if num_vectors < min(num_wanted + 2, dimension):
        raise ValueError(
            f"num_vectors={num_vectors} is too few for {num_wanted} eigenvalues: take "
            f"{num_wanted + 2} or more."
        )
    # An array may be a hyperparameter of the state, whose value is not known while tracing.
    if isinstance(tolerance, int | float) and not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be between 0 and 1, got {tolerance}.")
    key = jax.random.key(0) if key is None else key
    plan = _Plan(k, which, num_vectors, max_products)
    if isinstance(operator, Operator):
        found = _compiled(plan, operator, tolerance, vector, key)
    else:
        found = _iterate(plan, operator, tolerance, vector, key, spaces.ON_HOST)
    raise_if_nonfinite(found.status != CurvatureStatus.NONFINITE)
    return found


class Ritz(NamedTuple):
    """What a space knows of the spectrum.

    Attributes:
        values: f[m], ascending.
        rotation: f[m, m], the vectors in the basis, as columns.
        residuals: f[m], rounding included.
        rounding: f[], the least that a residual can be.
    """

    values: jax.Array
    rotation: jax.Array
    residuals: jax.Array
    rounding: jax.Array


@jax.jit
def ritz(space: Krylov) -> Ritz:
    """Returns the eigenpairs of the projected operator, NaN where a product was not finite."""
    values, rotation = jnp.linalg.eigh(spaces.symmetric(space))
    # Of the products and the basis, as random errors add up.
    rounding = len(values) ** 0.5 * jnp.finfo(values.dtype).eps * jnp.abs(values).max()
    residuals = jnp.maximum(space.remainder * jnp.abs(rotation[-1]), rounding)
    known = functools.partial(jnp.where, space.is_finite)
    return Ritz(known(values, jnp.nan), rotation, known(residuals, jnp.nan), rounding)


def status_of(is_converged: jax.Array, is_finite: jax.Array) -> jax.Array:
    """Returns the `CurvatureStatus` as i32[]."""
    status = jnp.where(is_converged, CurvatureStatus.CONVERGED, CurvatureStatus.UNCONVERGED)
    return jnp.where(is_finite, status, CurvatureStatus.NONFINITE).astype(jnp.int32)


def is_converged(found: Ritz, wanted: np.ndarray, tolerance: Any) -> jax.Array:
    """Whether the residuals of the wanted values are within the tolerance."""
    allowed = jnp.maximum(tolerance * jnp.abs(found.values), 2 * found.rounding)
    return (found.residuals <= allowed)[wanted].all()


class _Plan(NamedTuple):
    """The options that shape the program."""

    k: int
    which: Which
    num_vectors: int
    max_products: int

    def ends(self, num: int) -> np.ndarray:
        """Indices of so many Ritz values at the end (or ends) asked for, largest first."""
        num_top = {"top": num, "bottom": 0, "both": (num + 1) // 2}[self.which]
        order = np.arange(self.num_vectors)[::-1]
        return np.concatenate([order[:num_top], order[self.num_vectors - (num - num_top) :]])

    @property
    def wanted(self) -> np.ndarray:
        return self.ends(2 * self.k if self.which == "both" else self.k)

    @property
    def kept(self) -> np.ndarray:
        """Half of what is not wanted stays too: it keeps what the space has learnt of the rest."""
        spare = self.num_vectors - len(self.wanted)
        return self.ends(len(self.wanted) + spare // 2)


class _Progress(NamedTuple):
    space: Krylov
    found: Ritz
    num_products: jax.Array
    status: jax.Array


def _iterate(
    plan: _Plan, operator: Callable[[Any], Any], tolerance: Any, vector: Any, key: Any, loops: Loops
) -> Eigenpairs:
    kept, wanted, num_vectors = plan.kept, plan.wanted, plan.num_vectors

    def again(progress: _Progress) -> tuple[Krylov, jax.Array]:
        found = progress.found
        space = spaces.restart(progress.space, found.values[kept], found.rotation[:, kept])
        return space, jnp.int32(len(kept))

    def cycle(progress: _Progress) -> _Progress:
        is_first = progress.status == CurvatureStatus.WAITING
        space, first = loops.choose(
            is_first, lambda progress: (progress.space, jnp.int32(0)), again, progress
        )
        # Each cycle has fresh directions of its own.
        space = spaces.grow(
            operator, space, first, jax.random.fold_in(key, progress.num_products), loops
        )
        found = ritz(space)
        return _Progress(
            space=space,
            found=found,
            num_products=progress.num_products + num_vectors - first,
            status=status_of(is_converged(found, wanted, tolerance), space.is_finite),
        )

    def is_unfinished(progress: _Progress) -> jax.Array:
        can_go_on = progress.num_products + num_vectors - len(kept) <= plan.max_products
        is_waiting = progress.status == CurvatureStatus.WAITING
        return is_waiting | ((progress.status == CurvatureStatus.UNCONVERGED) & can_go_on)

    if vector is None:
        vector = spaces.random_vector(key, operator.params)
    dtype = spaces.dtype_of(operator.params)
    space = spaces.start(jax.tree.map(lambda leaf: leaf.astype(dtype), vector), num_vectors)
    nothing = Ritz(space.projected[0], space.projected, space.projected[0], space.remainder)
    waiting = jnp.int32(CurvatureStatus.WAITING)
    last = loops.until(is_unfinished, cycle, _Progress(space, nothing, jnp.int32(0), waiting))
    rows = jax.tree.map(lambda leaf: leaf[:-1], last.space.basis)
    return Eigenpairs(
        values=last.found.values[wanted],
        vectors=spaces.combine(last.found.rotation[:, wanted].T, rows),
        residuals=last.found.residuals[wanted],
        num_products=last.num_products,
        status=last.status,
    )


@functools.partial(jax.jit, static_argnums=0)
def _compiled(plan: _Plan, operator: Operator, tolerance: Any, vector: Any, key: Any) -> Eigenpairs:
    return _iterate(plan, operator, tolerance, vector, key, spaces.COMPILED)
