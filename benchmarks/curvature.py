"""The ends and the density of a Hessian's spectrum, beside scipy, matfree and curvlinops.

    python -m benchmarks.curvature [--json PATH] [--repeats 1]

A tanh network of a million parameters with the cross entropy of one batch. Timed in turns, medians:

- the 20 largest eigenvalues: ours; scipy's `eigsh` (ARPACK) in a loop over the same compiled
  product, to the same tolerance; matfree's `eigh_partial`, which has no restarts and no tolerance,
  in one space of 100 vectors;
- one probe of the spectral density with 64 products: ours, matfree's Lanczos, and curvlinops' on
  the same network in torch, if that is installed (it is in no extra of this project). The largest
  eigenvalue that each saw stands beside its time.

On a network that is small enough, the 20 largest stand beside those of the dense matrix.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse.linalg
import tyro
from jax.flatten_util import ravel_pytree
from matfree import decomp, eig

from benchmarks import tables
from benchmarks.overhead import interleaved_medians
from benchmarks.records import environment, write
from benchmarks.torch_peers import by_curvlinops, curvlinops_versions
from pfn_optax.curvature import (
    Operator,
    eigenvalues,
    extreme_eigenpairs,
    hessian_operator,
    spectral_density,
)

SIZES = (784, 784, 480, 10)
SMALL_SIZES = (10, 20, 16, 4)
NUM_VALUES, NUM_STEPS, TOLERANCE = 20, 64, 1e-4
NUM_MATFREE = 100


@dataclass(frozen=True)
class Config:
    """What to time.

    Attributes:
        batch_size: examples in the loss.
        repeats: timed calls of each function; the median counts.
        json: where to write the numbers, if anywhere.
    """

    batch_size: int = 64
    repeats: int = 1
    json: Path | None = None


def problem(batch_size: int, sizes: tuple[int, ...] = SIZES) -> tuple[Any, jax.Array, jax.Array]:
    """Draws weights, inputs and labels."""
    draw = np.random.default_rng(0)
    weights = [
        jnp.asarray(draw.normal(size=(a, b)) / a**0.5, jnp.float32)
        for a, b in itertools.pairwise(sizes)
    ]
    inputs = jnp.asarray(draw.normal(size=(batch_size, sizes[0])), jnp.float32)
    return weights, inputs, jnp.asarray(draw.integers(0, sizes[-1], batch_size))


def loss(weights: list[jax.Array], inputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross entropy of a tanh network without biases."""
    *hidden, head = weights
    x = inputs
    for weight in hidden:
        x = jnp.tanh(x @ weight)
    return optax.softmax_cross_entropy_with_integer_labels(x @ head, labels).mean()


def by_eigsh(operator: Operator) -> np.ndarray:
    """The largest eigenvalues by ARPACK, which holds the basis on the host."""
    flat, unravel = ravel_pytree(operator.params)

    @jax.jit
    def product(operator, vector):
        return ravel_pytree(operator(unravel(vector)))[0]

    linear = scipy.sparse.linalg.LinearOperator(
        (flat.size, flat.size),
        matvec=lambda vector: np.asarray(product(operator, np.ravel(vector))),  # pyright: ignore
        dtype=np.float32,  # pyright: ignore
    )
    found = scipy.sparse.linalg.eigsh(
        linear,
        NUM_VALUES,
        which="LA",
        tol=TOLERANCE,  # pyright: ignore
    )
    return np.sort(found[0])[::-1]


def by_matfree(num_products: int) -> Callable[[Operator, Any], jax.Array]:
    """All Ritz values of one space, descending, by matfree's re-orthogonalised Lanczos."""
    tridiagonalise = decomp.tridiag_sym(num_products)

    @jax.jit
    def values(operator, vector):
        return jnp.linalg.eigvalsh(tridiagonalise(operator, vector).J_small)[::-1]

    return values


def largest_by_matfree() -> Callable[[Operator, Any], jax.Array]:
    """The largest Ritz values of one space, with their vectors, by matfree's `eigh_partial`."""
    partial = eig.eigh_partial(decomp.tridiag_sym(NUM_MATFREE))

    @jax.jit
    def values(operator, vector):
        found, vectors = partial(operator, vector)
        order = jnp.argsort(-found)[:NUM_VALUES]
        return found[order], jax.tree.map(lambda leaf: leaf[order], vectors)

    return lambda operator, vector: values(operator, vector)[0]


def distance_from_dense() -> float:
    """The largest relative distance from the dense matrix's eigenvalues, on a small network."""
    weights, inputs, labels = problem(64, SMALL_SIZES)
    operator = hessian_operator(loss, weights, inputs, labels)
    found = extreme_eigenpairs(operator, NUM_VALUES, tolerance=TOLERANCE).values
    dense = eigenvalues(operator)[::-1][:NUM_VALUES]
    return float(jnp.max(jnp.abs(found / dense - 1)))


def main(config: Config) -> None:
    """Times everything and prints the table."""
    weights, inputs, labels = problem(config.batch_size)
    operator = hessian_operator(loss, weights, inputs, labels)
    assert isinstance(operator, Operator)  # not over batches
    draw = np.random.default_rng(1)
    start = [jnp.asarray(draw.normal(size=w.shape), jnp.float32) for w in weights]

    num_products = int(extreme_eigenpairs(operator, NUM_VALUES, tolerance=TOLERANCE).num_products)
    matfree, matfree_largest = by_matfree(NUM_STEPS), largest_by_matfree()
    functions: dict[str, Callable[[], Any]] = {
        "product": lambda: operator(start),
        "ours": lambda: extreme_eigenpairs(operator, NUM_VALUES, tolerance=TOLERANCE).values,
        "scipy eigsh": lambda: by_eigsh(operator),
        "matfree eigh_partial": lambda: matfree_largest(operator, start),
        "ours, density": lambda: spectral_density(
            operator, num_steps=NUM_STEPS, num_probes=1
        ).nodes.max(),
        "matfree, density": lambda: matfree(operator, start).max(),
    }
    versions = curvlinops_versions()
    if versions:
        nodes = by_curvlinops(weights, inputs, labels, NUM_STEPS)
        functions["curvlinops, density"] = lambda: nodes().max()
    results: dict[str, Any] = {}

    def kept(name):
        def run():
            results[name] = functions[name]()
            return results[name]

        return run

    seconds = interleaved_medians({name: kept(name) for name in functions}, config.repeats)

    def distance(name):
        values = np.float64(results[name][:NUM_VALUES])
        return float(np.max(np.abs(values / results["scipy eigsh"] - 1)))

    largest = {name: float(results[name]) for name in results if name.endswith(", density")}
    record = {
        **environment(),
        "num_params": sum(weight.size for weight in weights),
        "batch_size": config.batch_size,
        "num_values": NUM_VALUES,
        "num_products": num_products,
        "num_steps": NUM_STEPS,
        "seconds": seconds,
        "from_scipy": {name: distance(name) for name in ("ours", "matfree eigh_partial")},
        "num_matfree_vectors": NUM_MATFREE,
        "from_dense": {
            "num_params": sum(a * b for a, b in itertools.pairwise(SMALL_SIZES)),
            "distance": distance_from_dense(),
        },
        "peers": versions,
        "largest": largest,
    }
    print(tables.curvature(record))
    write(record, config.json)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
