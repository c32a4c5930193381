"""What a diagnosis can report from inside a compiled step, and how to raise it on the host."""

import enum
from typing import Any

import numpy as np
import optax


class Status(enum.IntEnum):
    """State of the diagnosis, `PFNState.pfn_status`.

    Only `CERTIFIED` changes the multipliers. Whatever else happens, they keep the values of the
    last certified diagnosis (ones before the first), so PFN never makes a bad step worse.
    """

    WAITING = 0
    """No diagnosis yet."""
    CERTIFIED = 1
    """The last diagnosis found a minimum cut, and the certificate holds."""
    NONFINITE_GRADIENT = 2
    """A gradient with NaN or infinity was seen since the last certified diagnosis, and not used."""
    ZERO_GRADIENT = 3
    """Every block norm was zero: there is nothing to route."""
    UNBOUNDED = 4
    """A path of infinite capacity joins loss and data: no parameter separates them."""
    UNCERTIFIED = 5
    """The solver stopped at its bound, or a capacity was NaN: the cut is not proven minimal."""


_REMEDY = {
    Status.NONFINITE_GRADIENT: (
        "the gradients contained NaN or infinity. PFN left its multipliers as they were; "
        "look for the first non-finite value in the model, or wrap the optimizer in "
        "`optax.apply_if_finite`."
    ),
    Status.ZERO_GRADIENT: (
        "every block norm is zero (norms below 1e-19 count as zero). Check that the loss depends "
        "on the parameters."
    ),
    Status.UNBOUNDED: (
        "no parameter separates the loss from the data in the flow graph: a path of identity edges "
        "joins them. Give the skip edges a finite capacity."
    ),
    Status.UNCERTIFIED: (
        "the maximum flow was not certified. If `capacity` is a callable, check it for NaN; "
        "otherwise the capacities span more decades than float32 can separate: try "
        "`capacity='rank'`."
    ),
}


class DiagnosisError(RuntimeError):
    """A diagnosis inside a compiled step did not succeed; raised by `raise_for_status`."""


def raise_for_status(state: Any) -> None:
    """Raises if the last diagnosis in an optimizer state went wrong.

    Call it on the host, between steps, with any optimizer state that contains a `PFNState`
    (of `optax.chain`, `nnx.Optimizer`, ...). A state of many seeds (from `vmap`) is searched whole.

    Args:
        state: an optimizer state.

    Raises:
        DiagnosisError: if any status is neither `WAITING` nor `CERTIFIED`; the message says what to
            do.
        ValueError: if there is no `PFNState` in `state`.

    Example:
        >>> import jax.numpy as jnp, optax, pfn_optax
        >>> optimizer = optax.chain(pfn_optax.pfn(every=1), optax.sgd(0.1))
        >>> params = {"dense": {"kernel": jnp.ones((4, 2))}}
        >>> _, state = optimizer.update(
        ...     {"dense": {"kernel": jnp.zeros((4, 2))}}, optimizer.init(params), params
        ... )
        >>> pfn_optax.raise_for_status(state)
        Traceback (most recent call last):
          ...
        pfn_optax.status.DiagnosisError: ZERO_GRADIENT at step 1: every block norm is zero ...
    """
    steps = optax.tree.get_all_with_path(state, "pfn_step")
    statuses = optax.tree.get_all_with_path(state, "pfn_status")
    if not statuses:
        raise ValueError(
            "no PFNState in this optimizer state: pass the state of a chain that holds pfn() or "
            f"with_pfn(...); got {type(state).__name__}."
        )
    for (_, codes), (_, counts) in zip(statuses, steps, strict=True):
        for code, step in zip(np.ravel(codes), np.ravel(counts), strict=True):
            if int(code) in _REMEDY:
                status = Status(int(code))
                raise DiagnosisError(f"{status.name} at step {int(step)}: {_REMEDY[status]}")
