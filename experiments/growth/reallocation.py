"""Units moved from groups with slack to a group that needs them, at a constant size.

The donors are condensed first, with a bound on the measured loss; what they free pays for fresh
units, which leave the function as it is. So the number of parameters never rises above the budget,
and only the condensation can change the function.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from experiments.growth.costs import num_affordable, num_parameters, unit_cost
from experiments.growth.gradmax import Batch, cross_entropy
from experiments.mlp import logits
from pfn_optax.growth import Grown, grow, shrink, widths


class Reallocated(NamedTuple):
    """A network of the same size or a smaller one, with its units elsewhere.

    Attributes:
        network: parameters, spec and optimizer state; the given ones where nothing could be moved.
        taken: units removed by group.
        given: units added by group; empty where nothing could be moved.
        loss_change: by how much the loss on the batch is larger.
    """

    network: Grown
    taken: dict[str, int]
    given: dict[str, int]
    loss_change: float


def sizes_of(params: Any) -> tuple[int, ...]:
    """Inputs, hidden units of each layer and outputs of `experiments.mlp` parameters."""
    first, *_ = layers = list(params.values())
    return (first["kernel"].shape[0], *(layer["kernel"].shape[1] for layer in layers))


def reallocate(
    network: Grown,
    receiver: str,
    donors: Sequence[str],
    *,
    budget: int,
    batch: Batch,
    optimizer: Any,
    kinds: Mapping[str, Any],
    key: jax.Array,
    share: float = 0.5,
    max_units: int | None = None,
    max_loss_increase: float = 0.02,
) -> Reallocated:
    """Moves units to one group; what it costs is taken from the donors, the first ones first.

    A donor gives a quarter of its units at most, and keeps two. Where the loss would rise by more
    than what is left of the bound, it gives half as many, down to one; then the next donor is
    asked. If all together cannot pay for a single unit, nothing changes.

    Args:
        network: parameters of `experiments.mlp` without padding, their spec, optimizer state.
        receiver: group to grow.
        donors: groups to condense; the receiver among them is passed over.
        budget: parameters that the network may have.
        batch: inputs and labels on which the loss is measured.
        optimizer: the optax optimizer of the state.
        kinds: what its state holds, of `state_kinds`.
        key: random key, of the fresh units.
        share: units to add as a share of those there.
        max_units: largest size of the receiver.
        max_loss_increase: bound in nats, of all donors together.

    Returns:
        The network after the move.
    """
    inputs, labels = batch
    layer_of = {name: number for number, name in enumerate(network.params, 1)}
    state = {"optimizer": optimizer, "kinds": kinds}
    start, spare = network, max_loss_increase
    own = widths(network.spec)[receiver]
    wanted = max(math.ceil(share * own), 1)
    if max_units is not None:
        wanted = min(wanted, max_units - own)
    taken: dict[str, int] = {}
    for donor in donors:
        sizes = sizes_of(network.params)
        missing = wanted * unit_cost(sizes, layer_of[receiver]) + num_parameters(sizes) - budget
        if wanted < 1 or missing <= 0:
            break
        width = sizes[layer_of[donor]]
        number = min(
            math.ceil(missing / unit_cost(sizes, layer_of[donor])), max(width // 4, 1), width - 2
        )
        while number > 0 and donor != receiver:
            smaller = shrink(
                network.params,
                network.spec,
                donor,
                number,
                function=logits,
                batches=[(inputs,)],
                loss=lambda outputs, _: cross_entropy(outputs, labels),
                max_loss_increase=spare,
                optimizer_state=network.optimizer_state,
                **state,
            )
            if smaller.is_accepted:
                network = Grown(smaller.params, smaller.spec, smaller.optimizer_state)
                spare -= smaller.loss_change or 0.0
                taken[donor] = number
                break
            number //= 2
    number = min(wanted, num_affordable(sizes_of(network.params), layer_of[receiver], budget))
    if number < 1:
        return Reallocated(start, {}, {}, 0.0)
    network = grow(
        network.params,
        network.spec,
        receiver,
        number,
        how="fresh",
        key=key,
        optimizer_state=network.optimizer_state,
        **state,
    )
    return Reallocated(network, taken, {receiver: number}, max_loss_increase - spare)
