"""The options of a controller, checked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pfn_optax.graph import FlowGraph
from pfn_optax.growth.budget import Budget
from pfn_optax.growth.changes import Kind
from pfn_optax.growth.grow import Grown, How
from pfn_optax.growth.metering import Meter
from pfn_optax.growth.proposal import Rule
from pfn_optax.growth.state import Rebuild
from pfn_optax.units import UnitSpec

_PFN_OPTIONS = ("capacity", "block_size", "num_blocks", "output_axis")


@dataclass(frozen=True)
class Settings:
    """The options of `GrowthController`, which says what they are."""

    rule: Rule
    budget: Budget
    max_changes: int
    how: How
    reallocate: bool
    function: Callable[..., Any] | None
    batches: tuple[tuple[Any, ...], ...]
    loss: Callable[..., Any] | None
    max_loss_increase: float | None
    rebuild: Callable[[UnitSpec], Callable[..., Any]] | None
    rebuild_optimizer: Rebuild | None
    graph: Any
    kinds: Mapping[str, Kind]
    extra_args: Mapping[str, Any] | None
    check: bool
    seed: int
    pfn_options: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Refuses what is out of range, and what lacks something."""
        if not (isinstance(self.max_changes, int) and self.max_changes >= 0):
            raise ValueError(
                f"max_changes must be an integer of at least 0, got {self.max_changes!r}."
            )
        if self.how not in ("split", "fresh"):
            raise ValueError(f'how must be "split" or "fresh", got {self.how!r}.')
        if unknown := [name for name in self.pfn_options if name not in _PFN_OPTIONS]:
            raise ValueError(
                f"the controller has no option {unknown[0]!r}; of those of pfn() it takes graph, "
                f"{', '.join(_PFN_OPTIONS)}."
            )
        bound = self.max_loss_increase
        if self.reallocate and not (self.loss and bound is not None and bound >= 0):
            raise ValueError(
                "reallocate shrinks groups as far as the loss allows: give function, batches, loss "
                f"and max_loss_increase (at least 0) with it, got max_loss_increase={bound!r}."
            )
        needs = {
            "reallocate": self.reallocate,
            "a budget of FLOPs": self.budget.flops is not None,
            "check": self.check,
        }
        for name, is_asked in needs.items():
            if is_asked and not (self.function and self.batches):
                raise ValueError(f"{name} runs the network: give function and batches with it.")

    def function_at(self, spec: UnitSpec) -> Callable[..., Any]:
        """The function of a network of the sizes of a spec."""
        function: Any = self.function
        return function if self.rebuild is None else self.rebuild(spec)

    def graph_at(self, params: Any, spec: UnitSpec) -> FlowGraph | None:
        """The graph of a network of the sizes of a spec."""
        graph = self.graph
        return graph if graph is None or isinstance(graph, FlowGraph) else graph(params, spec)

    def meter(self, network: Grown, optimizer: Any) -> Meter:
        """What says what a network costs."""

        def optimizer_at(params: Any, spec: UnitSpec) -> Any:
            rebuild = self.rebuild_optimizer
            return optimizer if rebuild is None else rebuild(params, spec)

        batch = self.batches[0] if self.batches else ()
        return Meter(network, self.budget, self.function_at, batch, optimizer_at)
