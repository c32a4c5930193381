"""Which operation of a program makes the first value that is not finite."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.diagnosis.arguments import is_floating
from pfn_optax.diagnosis.budget import Budget
from pfn_optax.tracing import Equation, interpret, trace


class Blamed(NamedTuple):
    """An operation whose operands are finite, and whose result is not.

    Attributes:
        primitive: its name, `"log"`; `"loop"` for all that is in one.
        scope: the named scope it is in, that of a Flax module; "" outside of any.
    """

    primitive: str
    scope: str


def first_broken(budget: Budget, function: Callable[..., Any], *args: Any) -> Blamed | None:
    """Runs a function and finds the first operation that breaks.

    Args:
        budget: for the one more program that this takes.
        function: of trees of arrays.
        *args: its arguments.

    Returns:
        The operation; None if there is none, as when an argument is not finite to begin with.

    Raises:
        Skip: if there is not the time or the memory.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.diagnosis.blame import first_broken
        >>> from pfn_optax.diagnosis.budget import Budget
        >>> budget = Budget(max_seconds=60, max_bytes=None)
        >>> first_broken(budget, lambda x: jnp.sum(jnp.exp(x) / (x - 1)), jnp.ones(2)).primitive
        'div'
    """

    def breaks(_: Equation, operands: Sequence[Any], results: Sequence[Any]) -> jax.Array:
        return _are_finite(operands) & ~_are_finite(results)

    return _first(budget, breaks, function, *args)


# What is finite at 0 while its slope is not.
_STEEP = frozenset({"sqrt", "cbrt", "pow"})


def first_steep(budget: Budget, function: Callable[..., Any], *args: Any) -> Blamed | None:
    """Runs a function and finds the first root of 0: finite, but its slope is not.

    Args:
        budget: as for `first_broken`.
        function: likewise.
        *args: likewise.

    Returns:
        The operation; None if there is none.

    Raises:
        Skip: if there is not the time or the memory.
    """

    def is_steep(equation: Equation, operands: Sequence[Any], _: Sequence[Any]) -> jax.Array:
        if equation.primitive not in _STEEP:
            return jnp.zeros((), bool)
        return jnp.any(operands[0] == 0)

    return _first(budget, is_steep, function, *args)


def _first(
    budget: Budget,
    is_it: Callable[[Equation, Sequence[Any], Sequence[Any]], jax.Array],
    function: Callable[..., Any],
    *args: Any,
) -> Blamed | None:
    program = trace(function, *args).program
    named: list[Equation] = []

    def flags(*leaves: Any) -> jax.Array:
        found: list[jax.Array] = []
        named.clear()

        def apply(equation: Equation, operands: list[Any]) -> Sequence[Any]:
            if equation.run is None:  # at the border of a shard_map: what is inside is not seen
                return operands
            results = equation.run(*operands)
            found.append(is_it(equation, operands, results))
            named.append(equation)
            return results

        interpret(program, leaves, constant=lambda one: one.value, apply=apply)
        return jnp.stack([jnp.zeros((), bool), *found])

    leaves = jax.tree.leaves(args)
    found = np.asarray(budget.compile(flags, *leaves, what="the search for NaN")(*leaves))[1:]
    if not found.any():
        return None
    first = named[int(np.argmax(found))]
    return Blamed(first.primitive, first.scope)


def _are_finite(values: Sequence[Any]) -> jax.Array:
    checks = [jnp.isfinite(value).all() for value in values if is_floating(value)]
    return jnp.stack([jnp.ones((), bool), *checks]).all()
