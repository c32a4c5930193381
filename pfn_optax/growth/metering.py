"""What a network would cost at other sizes."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optax

from pfn_optax.growth.arguments import joined
from pfn_optax.growth.budget import Budget, Cost, cost_of
from pfn_optax.growth.grow import Grown, widths
from pfn_optax.growth.resizing import places_of
from pfn_optax.growth.shapes import shapes_at
from pfn_optax.units import UnitSpec, resized


@dataclass(frozen=True)
class Meter:
    """Reads the cost off shapes; operations and bytes only where the budget bounds them.

    Attributes:
        network: the network.
        budget: the budget.
        function_at: from a spec to the function of a network of its sizes.
        batch: its further arguments.
        optimizer_at: from parameters and a spec to the optimizer for them.
        reference: a number of parameters that may not be exceeded either.
    """

    network: Grown
    budget: Budget
    function_at: Callable[[UnitSpec], Callable[..., Any]]
    batch: tuple[Any, ...]
    optimizer_at: Callable[[Any, UnitSpec], Any]
    reference: int | None = None

    @functools.cached_property
    def now(self) -> Cost:
        """The cost as it is."""
        return self.cost({})

    def cost(self, sizes: Mapping[str, int]) -> Cost:
        """Returns the cost with other sizes of some groups."""
        network, now = self.network, widths(self.network.spec)
        changed = {name: size for name, size in sizes.items() if size != now[name]}
        spec = resized(network.spec, changed)
        places = places_of(network.spec, fast_of(network.params), network.batch_stats)
        params, batch_stats = shapes_at(spec, places, network.params, network.batch_stats)
        call = optimizer = None
        if self.budget.flops is not None:
            tree = joined(places, fast_of(params), batch_stats)
            call = self.function_at(spec), tree, *self.batch
        if self.budget.memory is not None:
            optimizer = self.optimizer_at(params, spec)
        return cost_of(params, call=call, optimizer=optimizer)

    def excess(self, sizes: Mapping[str, int]) -> str:
        """Says what goes beyond the budget with these sizes; empty if nothing does."""
        cost = self.cost(sizes)
        found = self.budget.excess(cost), Budget(params=self.reference).excess(cost)
        return ", ".join(dict.fromkeys(filter(None, found)))


def fast_of(params: Any) -> Any:
    """The parameters that are trained, of the pair that `optax.lookahead` keeps."""
    return params.fast if isinstance(params, optax.LookaheadParams) else params
