"""What is diagnosed: a loss, its parameters, a batch, and how they are trained."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class TrainingSetup:
    """The arguments of `diagnose`, as one value: what a `module:factory` returns.

    Attributes:
        loss: `loss(params, batch)` to a real scalar, or to (scalar, anything) with `has_aux`.
        params: its parameters, any tree of arrays.
        batch: one batch of data, any tree of arrays.
        model: `model(params, batch)` to its predictions; None to take what the last layer puts out.
        optimizer: the optax transformation that trains it, or an `nnx.Optimizer` with its state;
            None to leave out what depends on it.
        opt_state: the transformation's state; None to begin with `optimizer.init(params)`.
        has_aux: whether the loss returns more than the scalar.
    """

    loss: Callable[..., Any]
    params: Any
    batch: Any
    model: Callable[..., Any] | None = None
    optimizer: Any = None
    opt_state: Any = None
    has_aux: bool = False
