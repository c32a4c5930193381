"""The mixture of some units that comes nearest to all of them, on data."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.units import unit_activations


class Refit:
    """Products of the activations of every two units of a group, summed over batches.

    What reads the units is linear, so the same mixture serves every layer that reads them, and
    the products are all of the data that it needs.
    """

    def __init__(
        self, function: Callable[..., Any], params: Any, batches: Iterable[tuple[Any, ...]]
    ):
        """Reads the activations of all batches.

        Args:
            function: `function(params, *batch)`.
            params: the parameters.
            batches: tuples of its further arguments, all of the same shapes.
        """
        batches = list(batches)
        record = unit_activations(function, params, *batches[0])

        @jax.jit
        def products(params, *batch):
            return {
                name: jnp.matmul(rows.T, rows, precision="highest")
                for name, rows in record(params, *batch).items()
            }

        self._products: dict[str, np.ndarray] = {}
        for batch in batches:
            for name, product in products(params, *batch).items():
                earlier = self._products.get(name, 0)
                self._products[name] = earlier + np.asarray(product, np.float64)

    def reads(self, name: str) -> bool:
        """Whether the activations of a group could be read off the function.

        Args:
            name: the group.

        Returns:
            Whether there is a mixture for it.
        """
        return name in self._products

    def mixing(self, name: str, kept: np.ndarray, prior: np.ndarray, ridge: float) -> np.ndarray:
        """Solves for the mixture.

        Args:
            name: the group.
            kept: which units stay, i64[new_size].
            prior: what is near where the data say nothing, f64[new_size, size].
            ridge: its weight, as a share of the mean square of the activations that stay.

        Returns:
            f64[new_size, size].

        Raises:
            ValueError: if the activations of the group cannot be read, or are not finite.
        """
        if not self.reads(name):
            raise ValueError(
                f"the activations of group {name!r} cannot be read off the function (they live in "
                "a loop, or on one device's part of an array): leave the group out of sizes."
            )
        product = self._products[name]
        if not np.isfinite(product).all():
            raise ValueError(f"group {name!r} has activations on the batches that are not finite.")
        inner = product[np.ix_(kept, kept)]
        weight = ridge * np.trace(inner) / len(kept)
        if weight == 0:
            return prior
        # From the prior, so that what it gets right stays exactly so.
        gap = product[kept] - inner @ prior
        return prior + np.linalg.solve(inner + weight * np.eye(len(kept)), gap)
