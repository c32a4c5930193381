"""Optax optimizers by name, and the three arms of a comparison around one optimizer."""

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Literal

import optax

from pfn_optax import pfn, with_pfn

Arm = Literal["plain", "pfn", "with_pfn"]

# Customary for small networks; everything else starts at 1e-3.
_LEARNING_RATES = {"sgd": 0.05, "lion": 1e-4, "lars": 0.5, "adadelta": 1.0}


def aliases() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """Optax's ready-made optimizers by name: factories whose first argument is a learning rate."""
    # L-BFGS searches along a line with the loss function itself, which a plain step cannot give.
    excluded = {"lbfgs", "optimistic_adam"}  # the latter is deprecated for its second version
    return {
        name: factory
        for name, factory in inspect.getmembers(optax, inspect.isfunction)
        if not name.startswith(("_", "scale_by"))
        and name not in excluded
        and next(iter(inspect.signature(factory).parameters), None) == "learning_rate"
    }


def make_optimizer(
    name: str, *, learning_rate: float, options: Mapping[str, float] | None = None
) -> optax.GradientTransformation:
    """Make an optax optimizer by name.

    Args:
        name: Name of an alias, such as `"adamw"`.
        learning_rate: Positive, finite step size.
        options: Further keyword arguments of the alias, such as `{"momentum": 0.9}`.

    Returns:
        The optimizer.

    Raises:
        ValueError: If there is no such alias (with the nearest names), it has no such option, or
            the learning rate is not positive and finite.

    Example:
        >>> optimizer = make_optimizer("sgd", learning_rate=0.1, options={"momentum": 0.9})
    """
    factories = aliases()
    if name not in factories:
        near = difflib.get_close_matches(name, factories, n=3, cutoff=0.5)
        hint = f"Did you mean {', '.join(near)}?" if near else f"Known: {', '.join(factories)}."
        raise ValueError(f"optimizer must name an optax alias; got {name!r}. {hint}")
    if not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise ValueError(
            f"learning_rate must be positive and finite; got {learning_rate}. Try "
            f"{default_learning_rate(name)} for {name}."
        )
    parameters = list(inspect.signature(factories[name]).parameters)[1:]
    for option in options or {}:
        if option not in parameters:
            raise ValueError(
                f"optax.{name} has no option {option!r}; it has {', '.join(parameters)}"
            )
    key = {"key": 0} if "key" in parameters else {}  # of optimizers that add noise
    return factories[name](learning_rate, **key, **(options or {}))


def default_learning_rate(name: str) -> float:
    """A customary learning rate for an alias."""
    return _LEARNING_RATES.get(name, 1e-3)


def wrap(
    arm: Arm, optimizer: optax.GradientTransformation, **options
) -> optax.GradientTransformationExtraArgs:
    """Put an optimizer into an arm of the comparison.

    Args:
        arm: `"plain"` (the optimizer alone), `"pfn"` (amplify the gradients before the optimizer)
            or `"with_pfn"` (measure the gradients, scale the optimizer's updates).
        optimizer: Optimizer that all arms share.
        **options: Options of `pfn_optax.pfn`; the plain arm ignores them.

    Returns:
        The transformation to train with.
    """
    match arm:
        case "plain":
            transformation = optimizer
        case "pfn":
            transformation = optax.chain(pfn(**options), optimizer)
        case "with_pfn":
            transformation = with_pfn(optimizer, **options)
        case _:
            raise ValueError(f"arm must be plain, pfn or with_pfn; got {arm!r}")
    return optax.with_extra_args_support(transformation)
