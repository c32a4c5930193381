"""One step of the diagnosis: measure the gradients and, when it is time, find the cut.

gradients -> block norms (EMA) -> [every N steps: capacities -> maximum flow, minimum cut
-> persistence -> multipliers]
"""

import functools
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pfn_optax.capacity import CapacityFn, Statistics, capacity_rule
from pfn_optax.compensation import compensation, next_persistence
from pfn_optax.flow import max_flow
from pfn_optax.graph import BoundGraph, FlowGraph, bound_to, layout_of
from pfn_optax.partition import OutputAxis, Partition, Path, block_energies
from pfn_optax.state import PFNState
from pfn_optax.status import Status
from pfn_optax.when import when

Side = Literal["source", "sink"]


class Numbers(NamedTuple):
    """The options that may be traced (by `optax.inject_hyperparams`)."""

    every: jax.Array | int
    ema_decay: jax.Array | float
    beta: jax.Array | float
    gamma: jax.Array | float
    max_persistence: jax.Array | int


@dataclass(frozen=True)
class Options:
    """The options that shape the program: hashable, so that eager calls reuse what is compiled."""

    block_size: int | None
    num_blocks: int | None
    output_axis: OutputAxis | None
    capacity: str | CapacityFn
    graph: FlowGraph | None
    ema_window: int | None
    renormalize: bool
    side: Side
    warm_start: bool

    def layout(self, tree: Any) -> Partition:
        """The blocks of a tree."""
        return layout_of(
            self.graph,
            tree,
            block_size=self.block_size,
            num_blocks=self.num_blocks,
            output_axis=self.output_axis,
        )


@functools.partial(jax.jit, static_argnums=(0, 1))
def observe(
    options: Options,
    layout: Partition,
    numbers: Numbers,
    gradients: dict[Path, jax.Array],
    params: dict[Path, jax.Array] | None,
    state: PFNState,
) -> PFNState:
    """Takes one step on the leaves in blocks. Compiled once also where the caller runs eagerly.

    Args:
        options: the options that shape the program.
        layout: the blocks.
        numbers: the other options.
        gradients: the leaves in blocks, by path.
        params: the same of the parameters, None where they are not known.
        state: the state.

    Returns:
        The next state.
    """
    state = state._replace(pfn_step=optax.safe_increment(state.pfn_step))
    if not layout.layers:
        return state
    phase = state.pfn_step % numbers.every  # 0 when a diagnosis is due

    measure = functools.partial(_measure, options, layout, numbers, gradients)
    if options.ema_window is None:
        state, is_finite = measure(state)
    else:
        is_near = (phase == 0) | (phase > numbers.every - options.ema_window)
        state, is_finite = jax.lax.cond(is_near, measure, lambda s: (s, jnp.array(True)), state)

    # What a diagnosis decides is piecewise constant: no derivative goes through it.
    params, state = jax.lax.stop_gradient((params, state))
    diagnose = functools.partial(_diagnose, options, layout, numbers)
    return when((phase == 0) & is_finite, diagnose, params, state)


def _measure(
    options: Options,
    layout: Partition,
    numbers: Numbers,
    gradients: dict[Path, jax.Array],
    state: PFNState,
) -> tuple[PFNState, jax.Array]:
    """Bias-corrected EMA of norm**moment, kept as a norm; non-finite gradients are left out."""
    moment = capacity_rule(options.capacity).moment
    norms = jnp.sqrt(block_energies(layout, gradients))
    is_finite = jnp.isfinite(norms).all()
    measured = state.pfn_measured + 1
    decay = jnp.asarray(numbers.ema_decay, jnp.float32)
    weight = (1 - decay) / (1 - decay ** measured.astype(jnp.float32))
    old = state.pfn_norms**moment
    mean = old + weight * (norms**moment - old)
    return state._replace(
        pfn_measured=jnp.where(is_finite, measured, state.pfn_measured),
        pfn_nonfinite=state.pfn_nonfinite + (~is_finite).astype(jnp.int32),
        pfn_norms=jnp.where(is_finite, jnp.maximum(mean, 0) ** (1 / moment), state.pfn_norms),
        pfn_status=jnp.where(is_finite, state.pfn_status, Status.NONFINITE_GRADIENT),
    ), is_finite


def _diagnose(
    options: Options,
    layout: Partition,
    numbers: Numbers,
    params: dict[Path, jax.Array] | None,
    state: PFNState,
) -> PFNState:
    """Capacities, maximum flow, cut, persistence, multipliers: the study's sections 3.2 to 3.5."""
    bound = bound_to(options.graph, layout)
    rule = capacity_rule(options.capacity)
    known = Statistics(state.pfn_norms, params, layout)
    capacities = rule.block_capacities(known, layout)
    on_edges = bound.edge_capacities(capacities, rule)
    result = max_flow(bound.network, on_edges, side=options.side, warm=state.pfn_warm or None)
    status = jnp.select(
        [state.pfn_norms.max() == 0, ~result.certified, jnp.isinf(result.value)],
        [Status.ZERO_GRADIENT, Status.UNCERTIFIED, Status.UNBOUNDED],
        Status.CERTIFIED,
    ).astype(jnp.int32)
    is_good = status == Status.CERTIFIED

    cut = _cut_blocks(bound, result.cut, layout.num_blocks)
    persistence = next_persistence(cut, state.pfn_cut, state.pfn_persistence)
    multipliers = compensation(
        cut,
        persistence,
        beta=numbers.beta,
        gamma=numbers.gamma,
        max_persistence=numbers.max_persistence,
    )
    return state._replace(
        pfn_diagnoses=state.pfn_diagnoses + is_good.astype(jnp.int32),
        pfn_capacities=capacities,
        pfn_cut=jnp.where(is_good, cut, state.pfn_cut),
        pfn_persistence=jnp.where(is_good, persistence, state.pfn_persistence),
        pfn_multipliers=jnp.where(is_good, multipliers, state.pfn_multipliers),
        pfn_flow=result.value,
        pfn_certified=result.certified,
        pfn_unique=result.unique,
        pfn_rounds=result.rounds,
        pfn_status=status,
        pfn_warm=jax.tree.map(
            functools.partial(jnp.where, is_good), result.warm or (), state.pfn_warm
        ),
    )


def _cut_blocks(bound: BoundGraph, cut: jax.Array, num_blocks: int) -> jax.Array:
    """A block is in the cut where any of its edges is; identities (block -1) fall off the end."""
    blocks = jnp.where(bound.edge_block >= 0, bound.edge_block, num_blocks)
    return jnp.zeros(num_blocks, bool).at[blocks].max(cut, mode="drop")
