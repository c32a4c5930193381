"""The leaves of a tree, each by a few numbers: norm, share that is finite, largest magnitude."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.diagnosis.arguments import is_floating
from pfn_optax.diagnosis.case import Case
from pfn_optax.paths import named_leaves
from pfn_optax.propagation.backward_taps import gradient_norm


class LeafNumbers(NamedTuple):
    """Numbers of one leaf.

    Attributes:
        size: how many entries it has.
        norm: L2 norm; NaN or infinite where an entry is.
        broken_share: share of entries that are NaN or infinite.
        largest: magnitude of the largest.
    """

    size: int
    norm: float
    broken_share: float
    largest: float


def leaf_numbers(tree: Any) -> jax.Array:
    """Measures the floating leaves that are not empty, inside of jit.

    Args:
        tree: any tree of arrays.

    Returns:
        f32[num_leaves, 3]: norm, share that is not finite, largest magnitude.
    """
    rows = [
        jnp.stack([gradient_norm(leaf), jnp.mean(~jnp.isfinite(leaf)), jnp.max(jnp.abs(leaf))])
        for _, leaf in _measured(tree)
    ]
    return jnp.stack([row.astype(jnp.float32) for row in rows]) if rows else jnp.zeros((0, 3))


def by_path(tree: Any, numbers: Any) -> dict[str, LeafNumbers]:
    """Returns what `leaf_numbers` found by the path of the leaf, `"Dense_0/kernel"`."""
    rows: Sequence[Any] = np.asarray(numbers).tolist()
    return {
        "/".join(path): LeafNumbers(leaf.size, *row)
        for (path, leaf), row in zip(_measured(tree), rows, strict=True)
    }


def measure_given(case: Case) -> tuple[dict[str, LeafNumbers], dict[str, LeafNumbers]]:
    """Measures parameters and batch, by path; for `case.once`.

    Raises:
        Skip: if there is not the time or the memory.
    """
    given = case.setup.params, case.setup.batch
    run = case.budget.compile(
        lambda params, batch: (leaf_numbers(params), leaf_numbers(batch)), *given, what="norms"
    )
    params, batch = run(*given)
    return by_path(case.setup.params, params), by_path(case.setup.batch, batch)


def _measured(tree: Any) -> list[tuple[tuple[str, ...], Any]]:
    return [(path, leaf) for path, leaf in named_leaves(tree) if is_floating(leaf) and leaf.size]
