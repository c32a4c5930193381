"""What a network costs, and how much it may."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
import optax


class Cost(NamedTuple):
    """What a network costs.

    Attributes:
        params: number of parameters.
        flops: floating-point operations of a call; None if it was not asked for.
        memory: bytes of parameters, gradients and optimizer state; None likewise.
    """

    params: int
    flops: float | None = None
    memory: int | None = None


@dataclass(frozen=True)
class Budget:
    """How much a network may cost; None for what is not bounded.

    Attributes:
        params: number of parameters.
        flops: floating-point operations of one call of the function on one batch.
        memory: bytes of parameters, gradients and optimizer state.

    Raises:
        ValueError: if a bound is not positive.

    Example:
        >>> from pfn_optax.growth import Budget, Cost
        >>> Budget(params=1000).excess(Cost(params=1200))
        '1,200 parameters where 1,000 are allowed'
    """

    params: int | None = None
    flops: float | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        """Checks the bounds."""
        for name in ("params", "flops", "memory"):
            bound = getattr(self, name)
            if bound is not None and not bound > 0:
                raise ValueError(f"the budget of {name} must be positive or None, got {bound!r}.")

    def used(self, cost: Cost) -> str:
        """Says how much of the budget a cost takes.

        Args:
            cost: of a network.

        Returns:
            In words: the number of parameters, and what else is bounded.
        """
        named = (
            ("{:,.0f}", "parameters", cost.params, self.params),
            ("{:.3g}", "FLOPs", cost.flops, self.flops),
            ("{:,.0f}", "bytes", cost.memory, self.memory),
        )
        return ", ".join(
            " of ".join(number.format(x) for x in (value, bound) if x is not None) + f" {unit}"
            for number, unit, value, bound in named
            if value is not None
        )

    def excess(self, cost: Cost) -> str:
        """Says what of a cost goes beyond the budget.

        Args:
            cost: of a network; what is bounded must be known.

        Returns:
            In words; empty where the cost is within the budget.
        """
        named = (
            (cost.params, self.params, "{:,.0f} parameters where {:,.0f} are allowed"),
            (cost.flops, self.flops, "{:.3g} FLOPs where {:.3g} are allowed"),
            (cost.memory, self.memory, "{:,.0f} bytes where {:,.0f} are allowed"),
        )
        return ", ".join(
            words.format(value, bound)
            for value, bound, words in named
            if bound is not None and value is not None and value > bound
        )


def cost_of(params: Any, *, call: tuple[Any, ...] | None = None, optimizer: Any = None) -> Cost:
    """Counts parameters, operations and bytes; nothing is compiled or run.

    Args:
        params: the parameters, arrays or `jax.ShapeDtypeStruct`; with `optax.lookahead` the pair.
        call: `(function, *args)`, of which the operations are counted as XLA counts them before it
            optimises; the body of a loop (`scan`, `while_loop`) counts once.
        optimizer: the optimizer whose state counts as memory.

    Returns:
        The cost; without operations or bytes where there is no call or no optimizer.

    Raises:
        ValueError: if this device does not count operations.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from pfn_optax.growth import cost_of
        >>> params = {"w": jnp.ones((4, 8))}
        >>> call = (lambda params, x: x @ params["w"], params, jnp.ones((2, 4)))
        >>> cost_of(params, call=call, optimizer=optax.adam(0.1))
        Cost(params=32, flops=128.0, memory=516)
    """
    fast = params.fast if isinstance(params, optax.LookaheadParams) else params
    memory = None
    if optimizer is not None:
        state = jax.eval_shape(optimizer.init, params)
        memory = _bytes((params, fast, state))
    flops = None
    if call is not None:
        function, *args = call
        found = jax.jit(function).lower(*args).cost_analysis()
        if not isinstance(found, dict) or "flops" not in found:
            raise ValueError(
                "operations are not counted on this device: bound parameters or memory instead."
            )
        flops = float(found["flops"])
    return Cost(sum(map(_size, jax.tree.leaves(fast))), flops, memory)


def _size(leaf: Any) -> int:
    return int(np.prod(np.shape(leaf), dtype=np.int64))


def _bytes(trees: Iterable[Any]) -> int:
    return sum(_size(leaf) * leaf.dtype.itemsize for leaf in jax.tree.leaves(trees))
