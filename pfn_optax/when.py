"""Work that is due at some steps only, inside a compiled step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def when(is_due: jax.Array, function: Callable[[Any, Any], Any], operands: Any, state: Any) -> Any:
    """Applies a function of (operands, state) if it is due, as a loop of one round or none.

    A `lax.cond` would become a select under `vmap` and run the function at every step; a loop runs
    it only when it is due for any of the batch.

    Args:
        is_due: bool[].
        function: returns a state like the one it is given.
        operands: what else it reads, as the parameters.
        state: the state.

    Returns:
        The next state, or the same.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.when import when
        >>> print(when(jnp.array(True), lambda step, state: state + step, 2.0, jnp.float32(1)))
        3.0
    """

    def once(carry):
        # The barrier ties the operands to the carry. Else XLA moves what depends on them alone
        # (as ranks) out of the loop under `vmap`, to where it runs at every step.
        return jnp.zeros_like(is_due), function(*jax.lax.optimization_barrier((operands, carry[1])))

    return jax.lax.while_loop(lambda carry: carry[0], once, (is_due, state))[1]
