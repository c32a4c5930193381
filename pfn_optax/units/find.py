"""Finds the groups of hidden units of a function, and checks them on it."""

from collections.abc import Callable
from typing import Any

import jax

from pfn_optax.tracing import trace
from pfn_optax.units.axes import axes_of
from pfn_optax.units.check import check_spec
from pfn_optax.units.spec import UnitSpec


def unit_spec(
    function: Callable[..., Any],
    params: Any,
    *args: Any,
    check: bool = True,
    key: jax.Array | None = None,
    tolerance: float = 1e-10,
) -> UnitSpec:
    """Finds which axis of which leaf is indexed by which group of hidden units.

    The function is traced; every operation says which axes of its operands and results share an
    index, and axes of leaves that share one form a group. The axes of the other arguments and of
    the outputs stay in their order. Whatever is not known stays as it is as well, with a warning in
    the spec: every group found is a symmetry, and few are missed.

    Args:
        function: `function(params, *args)`, from parameters to outputs (logits, a loss). In
            evaluation mode: dropout distinguishes the units that it drops.
        params: the parameters: any pytree of arrays or `jax.ShapeDtypeStruct`. What has an entry
            per unit and is no argument here is constant and ties the units down, so pass batch
            statistics along (Linen: the variables; NNX: the state).
        *args: the other arguments: data.
        check: whether to prove the spec on the function (`check_spec`); costs a compilation.
        key: random key of the check.
        tolerance: of the check.

    Returns:
        The spec: groups sorted by name, with all their members.

    Raises:
        TypeError: if a leaf is not an array.
        UnitSpecError: if the check fails.
        ValueError: if params or args have NaN entries (with `check`).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pfn_optax.units import unit_spec
        >>> params = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}
        >>> spec = unit_spec(
        ...     lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"], params, jnp.ones((5, 3))
        ... )
        >>> [group] = spec.groups
        >>> group.name, group.size, group.is_scalable, *map(str, group.members)
        ('in', 4, False, 'in axis 1', 'out axis 0')

    Reference:
        Ainsworth, Hayase, Srinivasa, "Git Re-Basin: merging models modulo permutation symmetries",
        ICLR 2023 (there the specs are written by hand).
    """
    spec = axes_of(trace(function, params, *args)).spec
    if check:
        check_spec(spec, function, params, *args, key=key, tolerance=tolerance)
    return spec
