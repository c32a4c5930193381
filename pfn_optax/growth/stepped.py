"""What a controller returns."""

from typing import Any, NamedTuple

from pfn_optax.growth.record import Decision
from pfn_optax.units import UnitSpec


class Stepped(NamedTuple):
    """What the controller returns: the network to go on with, and why.

    Attributes:
        params: the parameters.
        spec: their groups.
        optimizer_state: the optimizer's state.
        batch_stats: the batch statistics; None if none were given.
        optimizer: the optimizer; another one after a change, if it is rebuilt.
        decision: what was decided.
    """

    params: Any
    spec: UnitSpec
    optimizer_state: Any
    batch_stats: Any
    optimizer: Any
    decision: Decision

    @property
    def has_changed(self) -> bool:
        """Whether the sizes are others, for which programs are compiled anew."""
        return self.decision.has_changed


class SteppedModule(NamedTuple):
    """The same for a module of Flax NNX.

    Attributes:
        module: the module; another one after a change.
        spec: its groups.
        optimizer: its `nnx.Optimizer`; another one after a change.
        decision: what was decided.
    """

    module: Any
    spec: UnitSpec
    optimizer: Any
    decision: Decision

    @property
    def has_changed(self) -> bool:
        """Whether the sizes are others, for which programs are compiled anew."""
        return self.decision.has_changed
