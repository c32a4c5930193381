"""A wide network made narrower: by direction, by size alone, by chance."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from pfn_optax.landscape import Clusters, condense
from pfn_optax.landscape.clusters import clusters_of, directions, is_homogeneous
from pfn_optax.landscape.refit import Refit
from pfn_optax.paths import named_leaves
from pfn_optax.units import Group, UnitSpec, merge_units

Method = Literal["condense", "magnitude", "random"]

_RIDGE = 1e-6


class Reduction:
    """Narrower networks of the same sizes, from one wide network.

    Attributes:
        spec: the groups of units; all of them are made smaller.
        leaves: the parameters by path.
        clusters: by group, what similarity makes if no size is asked for.
    """

    def __init__(
        self,
        params: Any,
        spec: UnitSpec,
        function: Callable[..., Any],
        batches: Sequence[tuple],
        *,
        similarity: float,
        amplitude: float,
    ):
        """Finds the clusters and reads the activations.

        Args:
            params: of the wide network.
            spec: its groups.
            function: `function(params, *batch)`.
            batches: the data to refit on.
            similarity: the least cosine between units of a cluster.
            amplitude: the share of the largest |a| |w| at and below which units are removed.
        """
        self.spec, self._params, self._function, self._batches = spec, params, function, batches
        self._options: dict[str, Any] = {"similarity": similarity, "amplitude": amplitude}
        self.leaves = {path: np.asarray(leaf) for path, leaf in named_leaves(params)}
        self.clusters = {
            group.name: clusters_of(group, self.leaves, **self._options) for group in spec.groups
        }
        self._refit = Refit(function, params, batches)

    @property
    def can_sum(self) -> bool:
        """Whether merged units may be summed; otherwise what reads them must be refitted."""
        return all(map(is_homogeneous, self.spec.groups))

    def fits(self, sizes: Mapping[str, int]) -> bool:
        """Whether there are so many units that are not removed."""
        return all(
            size <= self.spec.group(name).size - len(self.clusters[name].removed)
            for name, size in sizes.items()
        )

    def small(
        self, sizes: Mapping[str, int], method: Method, *, draw: int, is_refit: bool
    ) -> tuple[Any, UnitSpec]:
        """One narrower network.

        Args:
            sizes: units of each group.
            method: which units become one.
            draw: seed of the random clusters.
            is_refit: whether what reads the units is refitted on the data, not summed.

        Returns:
            Parameters and their groups.
        """
        if method == "condense":
            # The size that similarity makes is not asked for: clusters are what is merged there.
            asked = {
                name: None if size == len(self.clusters[name].kept) else size
                for name, size in sizes.items()
            }
            data = {"function": self._function, "batches": self._batches} if is_refit else {}
            small = condense(
                self._params, self.spec, sizes=asked, ridge=_RIDGE, **self._options, **data
            )
            return small.params, small.spec
        random = np.random.default_rng(draw)
        kept, mixings = {}, {}
        for name, size in sizes.items():
            group = self.spec.group(name)
            kept[name], mixings[name] = self._merged(
                group, size, random if method == "random" else None
            )
            if is_refit:
                mixings[name] = self._refit.mixing(name, kept[name], mixings[name], _RIDGE)
        return merge_units(self.spec, self._params, kept, mixings)

    def _merged(
        self, group: Group, size: int, random: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The largest units, alone or with others by chance: which stay, and their mixing."""
        incoming, outgoing = directions(group, self.leaves)
        norms = np.linalg.norm(incoming, axis=1)
        amplitudes = norms * np.linalg.norm(outgoing, axis=1)
        order = np.argsort(-amplitudes)
        clusters = [order[place : place + 1] for place in range(size)]
        if random is not None:
            clusters = _by_chance(self.clusters[group.name], amplitudes, size, random)
        kept = np.asarray([units[0] for units in clusters])
        weights = norms if is_homogeneous(group) else np.ones(group.size)
        mixing = np.zeros((size, group.size))
        for row, units in enumerate(clusters):
            mixing[row, units] = weights[units] / weights[units[0]]
        return kept, mixing


def _by_chance(
    clusters: Clusters, amplitudes: np.ndarray, size: int, random: np.random.Generator
) -> list[np.ndarray]:
    """The units that are not removed, in clusters by chance; the largest of each is first."""
    units = random.permutation(np.setdiff1d(np.arange(len(amplitudes)), clusters.removed))
    labels = np.concatenate([np.arange(size), random.integers(0, size, len(units) - size)])
    order = np.argsort(-amplitudes[units])
    units, labels = units[order], labels[order]
    return [units[labels == label] for label in range(size)]
