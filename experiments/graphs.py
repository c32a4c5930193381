"""The flow graph of an experiment's network, from its own training loss."""

from typing import Any, Literal

import jax

from experiments.data import Dataset
from experiments.training import Network
from pfn_optax import graph_from_loss, unit_graph

GraphName = Literal["chain", "layers", "units"]


def flow_options(
    name: GraphName,
    network: Network,
    dataset: Dataset,
    *,
    block_size: int | None,
    num_blocks: int | None,
) -> dict[str, Any]:
    """The options of `pfn` that say how parameters are cut and joined.

    Args:
        name: `"chain"`: layers in a row, in path order; `"layers"`: as the loss joins them;
            `"units"`: chunks of hidden units, joined by sub-matrices.
        network: The network.
        dataset: Gives the shape of a batch.
        block_size: Units per block.
        num_blocks: Blocks per layer, instead.

    Returns:
        `graph`, `block_size` and `num_blocks`, also for `cut_report` and `draw_flow`.
    """
    sizes = {"block_size": block_size, "num_blocks": num_blocks}
    if name == "chain":
        return sizes
    variables = jax.eval_shape(network.init, jax.random.key(0))
    batch = dataset.train_images[:2], dataset.train_labels[:2]
    if name == "layers":
        return sizes | {"graph": graph_from_loss(network.loss, *variables, *batch, has_aux=True)}
    graph = unit_graph(
        network.loss,
        *variables,
        *batch,
        block_size=block_size,
        num_blocks=num_blocks,
        has_aux=True,
    )
    return {"graph": graph}
