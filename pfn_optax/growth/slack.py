"""Which groups a maximum flow leaves capacity unused beside."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from pfn_optax.flow import max_flow
from pfn_optax.growth.sides import narrowest
from pfn_optax.report import snapshot
from pfn_optax.units import UnitSpec


class Slack(NamedTuple):
    """A group of units away from the cut.

    Attributes:
        group: its name.
        slack: the share of capacity, in (0, 1], that the flow leaves unused on the fullest of the
            layers that its width bounds; 1 if it bounds none.
        layers: these layers.
    """

    group: str
    slack: float
    layers: tuple[str, ...]


def slack_groups(state: Any, params: Any, spec: UnitSpec, **options: Any) -> tuple[Slack, ...]:
    """Ranks the groups away from the cut by the capacity that a maximum flow leaves unused.

    What counts for a group are the layers of which it is the narrower side: one with a narrower
    other side would pass as much with fewer units here. A layer with a block in the cut has nothing
    to spare. The flow is solved again, for the capacities of the last diagnosis.

    Args:
        state: an optimizer state with one `PFNState` in it.
        params: the parameters that it is for; only names and shapes are read.
        spec: the groups.
        **options: `block_size`, `num_blocks`, `output_axis`, `capacity`, `graph`, as given to
            `pfn`.

    Returns:
        The groups that can be shrunk, those with most capacity to spare first, of equal ones the
        widest.

    Raises:
        ValueError: if no single `PFNState` is found, or it does not fit the parameters.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from pfn_optax import pfn
        >>> from pfn_optax.growth import slack_groups
        >>> from pfn_optax.units import unit_spec
        >>> sizes = {"a": (3, 8), "b": (8, 8), "c": (8, 1), "d": (1, 3)}
        >>> params = {name: jnp.ones(size) for name, size in sizes.items()}
        >>> def predict(params, x):
        ...     for name in "abc":
        ...         x = jnp.tanh(x @ params[name])
        ...     return x @ params["d"]
        >>> spec = unit_spec(predict, params, jnp.ones((1, 3)))
        >>> optimizer = pfn(capacity="norm", every=1)
        >>> _, state = optimizer.update(params, optimizer.init(params), params)
        >>> found = slack_groups(state, params, spec, capacity="norm")[0]
        >>> found.group, round(found.slack, 2), found.layers
        ('a', 0.78, ('b',))
    """
    known, layout, bound, rule = snapshot(state, params, **options)
    on_edges = bound.edge_capacities(jnp.asarray(known.pfn_capacities), rule)
    flows = np.asarray(max_flow(bound.network, on_edges, return_flow=True).flow, np.float64)
    capacities = np.asarray(on_edges, np.float64)
    slacks: dict[str, dict[str, float]] = {
        group.name: {} for group in spec.groups if group.is_splittable
    }
    for layer in layout.layers:
        on_layer = np.isin(bound.edge_block, np.arange(layer.blocks.start, layer.blocks.stop))
        if not on_layer.any():
            continue
        whole = capacities[on_layer].sum()
        is_free = whole > 0 and not known.pfn_cut[layer.blocks].any()
        slack = 1 - flows[on_layer].sum() / whole if is_free else 0.0
        for _, group, _ in narrowest(spec, layer):
            slacks[group.name][layer.name] = float(slack)
    found = [
        Slack(name, min(own.values(), default=1.0), tuple(own)) for name, own in slacks.items()
    ]
    return tuple(
        sorted(
            (each for each in found if each.slack > 0),
            key=lambda each: (-each.slack, -spec.group(each.group).size),
        )
    )
