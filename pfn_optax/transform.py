"""The Parameter Flow Network as an optax transformation.

The story of one step, top to bottom:

    gradients -> block norms (EMA) -> [every N steps: capacities -> maximum flow, minimum cut
    -> persistence -> multipliers] -> scaled updates

All but the last arrow is in `step`, what is carried from step to step in `state`.
"""

import math
import numbers
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from pfn_optax.capacity import DEFAULT_CAPACITY, CapacityFn, capacity_rule
from pfn_optax.flow import FlowNetwork
from pfn_optax.graph import FlowGraph, bound_to
from pfn_optax.partition import (
    OutputAxis,
    Partition,
    block_energies,
    scale_blocks,
    unblocked_energy,
)
from pfn_optax.state import PFNState, WithPFNState, initial_state
from pfn_optax.step import Numbers, Options, Side, observe


def pfn(
    *,
    block_size: int | None = None,
    num_blocks: int | None = None,
    output_axis: OutputAxis | None = None,
    capacity: str | CapacityFn = DEFAULT_CAPACITY,
    graph: FlowGraph | None = None,
    every: int = 50,
    ema_decay: float = 0.9,
    ema_window: int | None = None,
    beta: float = 1.8,
    gamma: float = 0.15,
    max_persistence: int = 15,
    renormalize: bool = False,
    side: Side = "source",
    warm_start: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Amplifies the gradients of the blocks in the minimum cut of the parameter flow network.

    Parameters are cut into blocks, each block gets a capacity :math:`c_e` (by default its share in
    the effective rank of its layer; its EMA gradient norm or the norm's rank on request), and a
    maximum flow is sent from the loss to the data through the layers. Every `every` steps the
    minimum cut names the bottleneck blocks, and until the next diagnosis their gradients are
    multiplied by

    .. math:: \Gamma(e) = 1 + \beta (1 + \gamma \min(\mathrm{persistence}_e, P))

    where the persistence is the number of consecutive earlier diagnoses in which the block was in
    the cut. Use it in front of an optimizer that keeps the gradient's size (SGD, momentum):
    `optax.chain(pfn(), optax.sgd(lr, momentum=0.9))`. Behind a normalising optimizer (Adam, ...) a
    lasting multiplier cancels within some hundred steps: there use `with_pfn`.

    All options are keyword-only and static, except `every`, `ema_decay`, `beta`, `gamma` and
    `max_persistence`, which may be traced (`optax.inject_hyperparams(pfn)(beta=schedule)`).

    Args:
        block_size: output units per block (default 16); a narrower layer is one block.
        num_blocks: blocks per layer, instead of `block_size`.
        output_axis: axis of the output units of each matrix: an integer, or a function of
            (path, shape). Default: the last.
        capacity: `"rank"`, `"norm"`, `"energy"`, `"global_rank"`, `"relative"`, `"sensitivity"`,
            `"effective_rank"`, `"jacobian_rank"` (see `pfn_optax.capacity`), or a function of
            (statistics, partition) that returns f32[num_blocks]. Those that read parameters need
            `update(updates, state, params)`.
        graph: how the layers are joined: `graph_from_loss(loss, params, *batch)`, `unit_graph(...)`
            (which brings its own blocks), or a `FlowGraph` written by hand. Default: a chain in
            natural path order.
        every: steps between diagnoses (the study takes a thirtieth of the run).
        ema_decay: decay of the moving average of the gradient norms, in [0, 1).
        ema_window: measure only in the last `ema_window` steps before each diagnosis, at no cost in
            the others. Default: measure at every step. Non-finite gradients outside go unnoticed.
        beta: strength of the amplification; 0 only diagnoses.
        gamma: growth of the amplification per diagnosis in the cut.
        max_persistence: number of diagnoses after which it stops growing.
        renormalize: keep the global norm: the amplified gradients are scaled down together to the
            norm they had (also the leaves in no block), so that only their proportions change.
        side: which minimum cut to take among several: `"source"`, nearest the loss (the study's),
            or `"sink"`, nearest the data.
        warm_start: start each maximum flow from the last one. The cuts are the same; it pays on
            large unit graphs with frequent diagnoses, and costs one number per edge in the state.

    Returns:
        A transformation with state `PFNState`.

    Raises:
        ValueError: from here, if an option is out of range; from `init`, if the graph names unknown
            layers; from `update`, if the tree is not the one of `init`, or `params` is missing.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from pfn_optax import pfn
        >>> optimizer = optax.chain(pfn(every=1), optax.sgd(0.1))
        >>> params = {"layer0": {"w": jnp.ones((3, 4))}, "layer1": {"w": jnp.ones((4, 1))}}
        >>> state = optimizer.init(params)
        >>> grads = jax.grad(lambda p: jnp.sum(p["layer0"]["w"] @ p["layer1"]["w"]))(params)
        >>> updates, state = optimizer.update(grads, state, params)
        >>> print(optax.tree.get(state, "pfn_multipliers"))
        [1.  2.8]

    Reference:
        "Bottleneck diagnosis and topology optimisation of gradient flow in neural networks by
        maximum flow and minimum cut", sections 3.2 to 3.5. Goldberg & Tarjan 1988 for push-relabel.
    """
    core = _Core(**locals())

    def update(updates, state, params=None, **extra_args):
        del extra_args
        state = core.observe(updates, state, params)
        return core.scale(updates, state), state

    return optax.GradientTransformationExtraArgs(core.init, update)


def with_pfn(
    optimizer: optax.GradientTransformation,
    *,
    block_size: int | None = None,
    num_blocks: int | None = None,
    output_axis: OutputAxis | None = None,
    capacity: str | CapacityFn = DEFAULT_CAPACITY,
    graph: FlowGraph | None = None,
    every: int = 50,
    ema_decay: float = 0.9,
    ema_window: int | None = None,
    beta: float = 1.8,
    gamma: float = 0.15,
    max_persistence: int = 15,
    renormalize: bool = False,
    side: Side = "source",
    warm_start: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer: diagnoses the raw gradients, amplifies the optimizer's updates.

    The form that still acts behind Adam. There a constant multiplier before the optimizer cancels
    (gradient times 6.85: updates 4.3 times larger after 19 steps, 1.5 after 500, 1.02 after 3000);
    here it stays. Options and their meaning are those of `pfn`; with a constant learning rate it
    is the learning rate of the blocks in the cut that is multiplied.

    Args:
        optimizer: any optax optimizer or chain.
        block_size: see `pfn`.
        num_blocks: see `pfn`.
        output_axis: see `pfn`.
        capacity: see `pfn`.
        graph: see `pfn`.
        every: see `pfn`.
        ema_decay: see `pfn`.
        ema_window: see `pfn`.
        beta: see `pfn`.
        gamma: see `pfn`.
        max_persistence: see `pfn`.
        renormalize: see `pfn`; the norm kept is that of the optimizer's updates.
        side: see `pfn`.
        warm_start: see `pfn`.

    Returns:
        A transformation with state `WithPFNState`; extra arguments are passed to `optimizer`.

    Raises:
        ValueError: as `pfn`.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from pfn_optax import with_pfn
        >>> optimizer = with_pfn(optax.adam(1e-3), every=1)
        >>> params = {"layer0": {"w": jnp.ones((3, 4))}, "layer1": {"w": jnp.ones((4, 1))}}
        >>> updates, state = optimizer.update(params, optimizer.init(params), params)
        >>> print(updates["layer1"]["w"].ravel() / updates["layer0"]["w"][0, 0])
        [2.8 2.8 2.8 2.8]
    """
    options = locals()
    inner = optax.with_extra_args_support(options.pop("optimizer"))
    core = _Core(**options)

    def init(params):
        return WithPFNState(pfn_state=core.init(params), inner_state=inner.init(params))

    def update(updates, state, params=None, **extra_args):
        pfn_state = core.observe(updates, state.pfn_state, params)
        updates, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        return core.scale(updates, pfn_state), WithPFNState(pfn_state, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


class _Core:
    """What `pfn` and `with_pfn` share."""

    def __init__(self, *, every, ema_decay, beta, gamma, max_persistence, **options):
        self.numbers = Numbers(every, ema_decay, beta, gamma, max_persistence)
        self.options = Options(**options)
        _check("every", every, "at least 1", lambda x: x >= 1)
        _check("ema_decay", ema_decay, "in [0, 1)", lambda x: 0 <= x < 1)
        _check("ema_window", self.options.ema_window, "at least 1", lambda x: x >= 1)
        _check("beta", beta, "finite and at least 0", lambda x: 0 <= x < math.inf)
        _check("gamma", gamma, "finite and at least 0", lambda x: 0 <= x < math.inf)
        _check("max_persistence", max_persistence, "at least 0", lambda x: x >= 0)
        if self.options.side not in ("source", "sink"):
            raise ValueError(f"side must be 'source' or 'sink', got {self.options.side!r}.")
        graph = self.options.graph
        if not (graph is None or isinstance(graph, FlowGraph)):
            raise ValueError(
                f"graph must be a FlowGraph or None (a chain), got {type(graph).__name__}."
            )
        self.options.layout({})  # reports bad block options
        capacity_rule(self.options.capacity)

    def init(self, params: Any) -> PFNState:
        layout = self.options.layout(params)
        if not layout.layers:  # as in the placeholder of `optax.tree.map_params`
            network = FlowNetwork.from_edges([(0, 1)], source=0, sink=1)
        else:
            network = bound_to(self.options.graph, layout).network
        return initial_state(layout.num_blocks, network if self.options.warm_start else None)

    def observe(self, gradients: Any, state: PFNState, params: Any) -> PFNState:
        """One step: measure the gradients, and diagnose when it is time."""
        layout = self.options.layout(gradients)
        if layout.num_blocks != state.pfn_norms.shape[-1]:
            raise ValueError(
                f"the gradients make {layout.num_blocks} blocks ({_summary(layout)}), but the "
                f"state was initialised with {state.pfn_norms.shape[-1]}: call init with the same "
                "tree."
            )
        return observe(
            self.options,
            layout,
            self.numbers,
            layout.leaves(gradients),
            None if params is None else layout.leaves(params),
            state,
        )

    def scale(self, updates: Any, state: PFNState) -> Any:
        """Multiplies the updates by the multipliers of their blocks."""
        layout, multipliers = self.options.layout(updates), state.pfn_multipliers
        if not self.options.renormalize:
            return scale_blocks(layout, updates, multipliers)
        energies = block_energies(layout, layout.leaves(updates))
        rest = unblocked_energy(layout, updates)
        before = energies.sum() + rest
        after = (jnp.square(multipliers) * energies).sum() + rest
        is_sound = (after > 0) & jnp.isfinite(after)
        keep = jnp.where(is_sound, jnp.sqrt(before / jnp.where(is_sound, after, 1.0)), 1.0)
        return scale_blocks(layout, updates, multipliers * keep, rest=keep)


def _check(name: str, value: Any, rule: str, is_met: Callable[[Any], bool]) -> None:
    """Checks a constant; traced values (under `optax.inject_hyperparams`) cannot be checked."""
    if isinstance(value, numbers.Real) and not is_met(value):
        raise ValueError(f"{name} must be {rule}, got {value!r}.")


def _summary(layout: Partition) -> str:
    names = [layer.name for layer in layout.layers]
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") or "no layers"
