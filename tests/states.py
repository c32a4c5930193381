"""Graphs of known shape, and states as `pfn` makes them, from capacities instead of training."""

import jax
import numpy as np

from pfn_optax import Edge, FlowGraph, PFNState, Status, max_flow
from pfn_optax.partition import partition


def matrix(inputs: int, outputs: int) -> dict:
    return {"kernel": jax.ShapeDtypeStruct((inputs, outputs), np.float32)}


def residual(num_stages: int, num_blocks: int, width: int = 32) -> tuple[dict, FlowGraph]:
    """A residual network with three layers in each block, as `stage0/block1/conv2`."""
    params, edges, end = {"stem": matrix(3, width)}, [Edge("stem", "data", "stem")], "stem"
    for stage in range(num_stages):
        blocks = params[f"stage{stage}"] = {}
        for number in range(num_blocks):
            name = f"stage{stage}/block{number}"
            blocks[f"block{number}"] = {f"conv{i}": matrix(width, width) for i in range(3)}
            nodes = (end, f"{name}/conv0", f"{name}/conv1", name)
            for i in range(3):
                edges.append(Edge(nodes[i + 1], nodes[i], f"{name}/conv{i}"))
            edges.append(Edge(name, end, capacity=3.0))
            end = name
    params["head"] = matrix(width, width)
    return params, FlowGraph((*edges, Edge("loss", end, "head")))


def units(*sizes: int, size: int = 16) -> tuple[dict, FlowGraph]:
    """A dense network with one node per group of units."""
    names = [f"Dense_{layer}" for layer in range(len(sizes) - 1)]
    params = {name: matrix(*sizes[i : i + 2]) for i, name in enumerate(names)}

    def groups(layer: int) -> list[str]:
        if layer in (0, len(names)):
            return ["data" if layer == 0 else "loss"]
        starts = range(0, sizes[layer], size)
        return [f"{names[layer - 1]}[{s}:{min(s + size, sizes[layer])}]" for s in starts]

    edges = [
        Edge(tail, head, name, blocks=(block,) if layer + 1 < len(names) else None)
        for layer, name in enumerate(names)
        for block, tail in enumerate(groups(layer + 1))
        for head in groups(layer)
    ]
    return params, FlowGraph(tuple(edges))


def state_of(graph: FlowGraph, params: dict, capacities: dict[str, float]) -> PFNState:
    """The state after one diagnosis in which each block of a layer had the capacity given for it.

    Layers that are not named have capacities of their own, between 20 and 30.
    """
    layout = graph.layout or partition(params)
    bound = graph.bind(layout)
    values = np.random.default_rng(0).uniform(20, 30, layout.num_blocks).astype(np.float32)
    for layer in layout.layers:
        values[layer.blocks] = capacities.get(layer.name, values[layer.blocks])
    on_edges = np.where(
        bound.edge_block >= 0, values[bound.edge_block], bound.identity_capacity
    ).astype(np.float32)
    result = jax.device_get(max_flow(bound.network, on_edges))
    cut = np.zeros(layout.num_blocks, bool)
    cut[bound.edge_block[(bound.edge_block >= 0) & result.cut]] = True
    return PFNState(
        pfn_step=np.int32(7),
        pfn_measured=np.int32(7),
        pfn_nonfinite=np.int32(0),
        pfn_diagnoses=np.int32(1),
        pfn_norms=values,
        pfn_capacities=values,
        pfn_cut=cut,
        pfn_persistence=np.zeros(layout.num_blocks, np.int32),
        pfn_multipliers=np.where(cut, 2.8, 1.0).astype(np.float32),
        pfn_flow=result.value,
        pfn_certified=result.certified,
        pfn_unique=result.unique,
        pfn_rounds=result.rounds,
        pfn_status=np.int32(Status.CERTIFIED),
    )
