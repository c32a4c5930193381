"""Bottlenecks planted in a dense network whose narrowest layer is another one.

| kind | what is planted in a layer, of which `left` directions or units are left |
| --- | --- |
| healthy | nothing |
| low rank | a kernel of that rank, at the norm it had |
| frozen | a bias of -30 in all other units: they never fire, and get no gradient |
| dead | weights into all other units times .001 |

As in `experiments.planted`, at chosen places and sizes.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from experiments.growth.programs import Sizes
from experiments.mlp import Params, init
from experiments.planted.bottlenecks import NEVER_FIRES, STARVED, low_rank

Kind = Literal["healthy", "low rank", "frozen", "dead"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def planted(sizes: Sizes, kind: Kind, group: str, left: int, seed: int) -> Params:
    """Draws a network and plants a bottleneck in it.

    Args:
        sizes: inputs, hidden units of each layer, outputs.
        kind: what to plant.
        group: the layer.
        left: directions or units that are left.
        seed: of the weights, and of the units that are left.

    Returns:
        The parameters; but for the layer, and its biases, they are those of the healthy network.
    """
    params = init(jax.random.key(seed), sizes)
    own = params[group]
    width = own["bias"].shape[0]
    is_left = np.zeros(width, bool)
    is_left[np.random.default_rng(seed).permutation(width)[:left]] = True
    match kind:
        case "low rank":
            own["kernel"] = jnp.asarray(low_rank(np.asarray(own["kernel"]), left))
        case "frozen":
            own["bias"] = jnp.where(is_left, 0.0, NEVER_FIRES)
        case "dead":
            own["kernel"] = own["kernel"] * jnp.where(is_left, 1.0, STARVED)
    return params
