"""SGD with Nesterov momentum under a cosine schedule; what watches stands first and last."""

from collections.abc import Sequence

import jax
import optax


def learning_rates(peak: float, *, num_steps: int, warmup: float) -> optax.Schedule:
    """A linear warm-up from nothing to the peak, then half a cosine to nothing.

    Args:
        peak: The largest learning rate.
        num_steps: Steps of the run.
        warmup: Share of them in which it rises, in [0, 1).

    Returns:
        The learning rate as a function of the step, counted from 0.

    Example:
        >>> schedule = learning_rates(0.4, num_steps=100, warmup=0.1)
        >>> [round(float(schedule(step)), 4) for step in (0, 5, 10, 55, 100)]
        [0.04, 0.22, 0.4, 0.2, 0.0]
    """
    num_warmup = round(warmup * num_steps)
    cosine = optax.cosine_decay_schedule(peak, num_steps - num_warmup)
    if num_warmup == 0:
        return cosine
    # From a tenth: a learning rate of 0 would make the first step for nothing.
    rise = optax.linear_schedule(peak / 10, peak, num_warmup)
    return optax.join_schedules([rise, cosine], [num_warmup])


def sgd(
    learning_rate: optax.Schedule,
    *,
    momentum: float,
    weight_decay: float,
    first: Sequence[optax.GradientTransformation] = (),
    last: Sequence[optax.GradientTransformation] = (),
) -> optax.GradientTransformationExtraArgs:
    """SGD with Nesterov momentum; weights decay, biases and scales of norms do not.

    Args:
        learning_rate: As a function of the step.
        momentum: In [0, 1).
        weight_decay: What of its weights is added to a gradient.
        first: Transformations of the raw gradients.
        last: Transformations of the finished updates.

    Returns:
        The chain.
    """
    return optax.chain(
        *first,
        optax.add_decayed_weights(weight_decay, mask=_are_weights),
        optax.trace(momentum, nesterov=True),
        optax.scale_by_learning_rate(learning_rate),
        *last,
    )


def _are_weights(params: optax.Params) -> optax.Params:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
