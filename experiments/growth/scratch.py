"""The widths that growth ends with, trained from the start: is it the widths, or the growing?"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments.growth import costs
from experiments.growth.images import Images
from experiments.growth.programs import Recipe, Sizes, accuracies, started, train
from experiments.mlp import init


def from_scratch(
    recipe: Recipe, steps: int, sizes: Mapping[int, Sizes], flops: Sequence[int], data: Images
) -> list[dict[str, Any]]:
    """Trains fresh networks of given sizes.

    Args:
        recipe: how.
        steps: of training, a multiple of the recipe's `every`.
        sizes: by seed, which sets initial parameters and batches as in every other arm.
        flops: for each of them the operations of the training to compare with.
        data: the images.

    Returns:
        For each network test accuracies after all steps (`equal_steps`) and after as many as have
        most nearly the given operations (`equal_flops`, at `num_steps`), and the operations of all.
    """
    seeds = list(sizes)
    ensemble = started(
        recipe, [init(jax.random.key(seed), tuple(own)) for seed, own in sizes.items()]
    )
    periods = steps // recipe.every
    stops = []
    for own, limit in zip(sizes.values(), flops, strict=True):
        per_period = recipe.every * costs.step_flops(own, recipe.batch_size)
        stops.append(int(np.clip(round(limit / per_period), 1, periods)))
    early = np.zeros(len(seeds))
    for number in range(periods):
        ensemble, _ = train(recipe, ensemble, seeds, number * recipe.every, recipe.every, data)
        is_stop = np.equal(stops, number + 1)
        if is_stop.any():
            right = np.asarray(accuracies(ensemble.params, data))
            early = np.where(is_stop, right, early)
    right = np.asarray(accuracies(ensemble.params, data))
    return [
        {
            "seed": seed,
            "widths": list(own[1:-1]),
            "equal_steps": float(right[i]),
            "equal_flops": float(early[i]),
            "num_steps": stops[i] * recipe.every,
            "flops": steps * costs.step_flops(own, recipe.batch_size),
        }
        for i, (seed, own) in enumerate(sizes.items())
    ]
