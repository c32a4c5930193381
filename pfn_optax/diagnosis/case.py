"""A setup under examination: every measurement made at most once, and shared by the checks."""

import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import jax

from pfn_optax.diagnosis.budget import Budget, DoesNotApply, Skip
from pfn_optax.diagnosis.finding import Severity
from pfn_optax.diagnosis.setup import TrainingSetup
from pfn_optax.diagnosis.structure import Structure, structure_of
from pfn_optax.diagnosis.thresholds import Thresholds
from pfn_optax.graph import FlowGraph, GraphWarning, graph_from_loss
from pfn_optax.graph.from_loss import unreached_leaves
from pfn_optax.partition import Partition, partition
from pfn_optax.tracing import trace

__all__ = ["Case", "DoesNotApply", "Skip"]

T = TypeVar("T")


class Case:
    """What the checks are given: the setup, the thresholds, and what was measured so far.

    Attributes:
        setup: what is examined.
        thresholds: what measurements are compared with.
        key: for what is drawn at random.
        budget: seconds and bytes; programs are compiled through it.
        measures: numbers about the whole network, to be shown; checks add theirs.
    """

    def __init__(
        self,
        setup: TrainingSetup,
        thresholds: Thresholds,
        key: jax.Array,
        budget: Budget | None = None,
    ):
        """Holds the setup; measures nothing yet."""
        self.setup = setup
        self.thresholds = thresholds
        self.key = key
        self.budget: Budget = budget or Budget(max_seconds=120.0, max_bytes=None)
        self.measures: dict[str, float] = {}
        self._found: dict[Any, Any] = {}

    def loss(self, params: Any, batch: Any) -> jax.Array:
        """The loss alone, whatever else the setup's returns."""
        found = self.setup.loss(params, batch)
        return found[0] if self.setup.has_aux else found

    def severity(self, excess: float) -> Severity:
        """A warning; far beyond the limit, critical."""
        return Severity.CRITICAL if excess > self.thresholds.critical else Severity.WARNING

    def once(self, measure: Callable[["Case"], T]) -> T:
        """Returns what a function measures of this case; the second time without measuring.

        Raises:
            Skip: as the measurement, also the second time.
        """
        if measure not in self._found:
            try:
                self._found[measure] = measure(self)
            except Skip as skip:
                self._found[measure] = skip
        found = self._found[measure]
        if isinstance(found, Skip):
            raise type(found)(*found.args)
        return found

    @cached_property
    def layout(self) -> Partition:
        """The layers of the parameters; blocks do not matter here."""
        return partition(self.setup.params)

    @cached_property
    def _layer_of_leaf(self) -> dict[str, str]:
        return {"/".join(path): layer.name for layer in self.layout.layers for path in layer.paths}

    def layer_of(self, leaf: str) -> str:
        """Returns the name of the layer of a leaf; of one that is in no layer, its module."""
        known = self._layer_of_leaf.get(leaf)
        return (leaf.rpartition("/")[0] or leaf) if known is None else known

    @cached_property
    def unreached(self) -> tuple[str, ...]:
        """Paths of the parameters that no gradient of the loss can reach, by its program."""
        params = self.setup.params
        traced = trace(self.loss, params, self.setup.batch)
        return unreached_leaves(traced, len(jax.tree.leaves(params)))

    @cached_property
    def graph(self) -> FlowGraph | None:
        """How the layers are joined; None if the loss depends on no data through any."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GraphWarning)
            try:
                return graph_from_loss(self.loss, self.setup.params, self.setup.batch)
            except ValueError:
                return None

    @cached_property
    def structure(self) -> Structure:
        """Which layers come first, last, and on every path; without a graph, by their order."""
        if self.graph is not None:
            return structure_of(self.graph)
        names = [layer.name for layer in self.layout.layers]
        return Structure(frozenset(names[:1]), frozenset(names[-1:]), frozenset(names))
