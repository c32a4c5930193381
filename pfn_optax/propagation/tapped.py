"""A function with taps: what forward and backward taps have in common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pfn_optax.propagation.tap_plan import TappedLayer, TapPlan, plan_taps


@dataclass(frozen=True, eq=False)
class TappedFunction:
    """A function and where it is tapped.

    Attributes:
        function: of (params, *args).
        plan: its taps, for arguments of the shapes that it was traced with.
        selection: names of the layers asked for; None for all.
    """

    function: Callable[..., Any]
    plan: TapPlan
    selection: tuple[str, ...] | None

    @property
    def layers(self) -> tuple[TappedLayer, ...]:
        """The tapped layers."""
        return self.plan.layers

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tapped layers, by which jit, that sorts them, can be undone."""
        return self.plan.names

    @property
    def missed(self) -> Mapping[str, str]:
        """Layers without a tap, and why."""
        return self.plan.missed

    def plan_for(self, params: Any, *args: Any) -> TapPlan:
        """The plan, or one for arguments of other shapes: the function is then traced anew."""
        if self.plan.fits(params, *args):
            return self.plan
        return plan_taps(self.function, params, *args, layers=self.selection)
