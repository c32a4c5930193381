"""How far the outputs of two networks differ on data."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np


class Comparison(NamedTuple):
    """What a smaller network does otherwise.

    Attributes:
        agreement: the share of rows whose largest output is the same one; of the classes predicted.
        output_change: the norm of the difference of the outputs over that of the first's.
        loss_change: the mean loss of the second minus the first's; None without a loss.
    """

    agreement: float
    output_change: float
    loss_change: float | None


def compared(
    first: tuple[Callable[..., Any], Any],
    second: tuple[Callable[..., Any], Any],
    batches: Iterable[tuple[Any, ...]],
    *,
    loss: Callable[..., Any] | None = None,
) -> Comparison:
    """Runs two networks on the same batches.

    Args:
        first: a function of `(params, *batch)` and its parameters.
        second: another.
        batches: tuples of their further arguments.
        loss: `loss(outputs, *batch)`, the mean over a batch.

    Returns:
        The comparison; the mean over batches counts each the same.

    Raises:
        ValueError: if the outputs are not single arrays of the same shape.
    """
    functions = [jax.jit(function) for function, _ in (first, second)]
    same, difference, size, losses = [], 0.0, 0.0, []
    for batch in batches:
        both = [
            function(params, *batch)
            for function, (_, params) in zip(functions, (first, second), strict=True)
        ]
        shapes = [getattr(outputs, "shape", ()) for outputs in both]
        if not shapes[0] or shapes[0] != shapes[1]:
            raise ValueError(
                "the outputs to compare must be single arrays of the same shape "
                f"[..., num_outputs], got {shapes[0]} and {shapes[1]}."
            )
        if loss is not None:
            losses.append([float(loss(outputs, *batch)) for outputs in both])
        one, other = (np.asarray(outputs, np.float64) for outputs in both)
        same.append(one.argmax(-1).ravel() == other.argmax(-1).ravel())
        difference += np.square(one - other).sum()
        size += np.square(one).sum()
    change = np.sqrt(difference / size) if size > 0 else np.sqrt(difference)
    gap = None if loss is None else float(np.diff(np.mean(losses, axis=0))[0])
    return Comparison(float(np.concatenate(same).mean()), float(change), gap)
