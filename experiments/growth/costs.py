"""What a dense network costs: parameters, and floating-point operations of training."""

import itertools
from collections.abc import Iterable, Sequence

Sizes = Sequence[int]


def num_parameters(sizes: Sizes) -> int:
    """Weights and biases of a dense network.

    Args:
        sizes: inputs, hidden units of each layer, outputs.

    Returns:
        Their number.

    Example:
        >>> num_parameters((784, 8, 8, 10))
        6442
    """
    return sum((wide + 1) * own for wide, own in itertools.pairwise(sizes))


def unit_cost(sizes: Sizes, layer: int) -> int:
    """Parameters that one more unit of a hidden layer adds.

    Args:
        sizes: inputs, hidden units of each layer, outputs.
        layer: number of the hidden layer, from 1.

    Returns:
        Its incoming weights, bias, and outgoing weights.

    Example:
        >>> unit_cost((784, 8, 8, 10), 1), unit_cost((784, 8, 8, 10), 2)
        (793, 19)
    """
    return sizes[layer - 1] + 1 + sizes[layer + 1]


def num_affordable(sizes: Sizes, layer: int, budget: int) -> int:
    """How many units can be added to a hidden layer within a number of parameters of the whole.

    Args:
        sizes: inputs, hidden units of each layer, outputs.
        layer: number of the hidden layer, from 1.
        budget: parameters that the network may have.

    Returns:
        The number, 0 where the network is there already or beyond.
    """
    return max((budget - num_parameters(sizes)) // unit_cost(sizes, layer), 0)


def step_flops(sizes: Sizes, batch_size: int) -> int:
    """Floating-point operations of a training step.

    A weight takes a multiplication and an addition per example in the forward pass, and as many
    again for each of the two gradients; biases, activations and the optimizer are left out.

    Args:
        sizes: inputs, hidden units of each layer, outputs.
        batch_size: examples of a step.

    Returns:
        Their number.
    """
    return 6 * batch_size * sum(wide * own for wide, own in itertools.pairwise(sizes))


def training_flops(phases: Iterable[tuple[int, Sizes]], batch_size: int) -> int:
    """Floating-point operations of training at changing sizes.

    Args:
        phases: number of steps and sizes of each.
        batch_size: examples of a step.

    Returns:
        Their number.

    Example:
        >>> training_flops([(10, (4, 2, 1)), (5, (4, 3, 1))], 1)
        1050
    """
    return sum(steps * step_flops(sizes, batch_size) for steps, sizes in phases)
