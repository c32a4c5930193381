"""The Parameter Flow Network as an optax transformation.

The story of one step, top to bottom:

    gradients -> block norms (EMA) -> [every N steps: capacities -> maximum flow, minimum cut
    -> persistence -> multipliers] -> scaled updates
"""

import functools
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pfn_optax.capacity import CapacityFn, Statistics, capacity_rule
from pfn_optax.compensation import compensation, next_persistence
from pfn_optax.flow import max_flow
from pfn_optax.graph import BoundGraph, FlowGraph
from pfn_optax.partition import (
    OutputAxis,
    Partition,
    Path,
    block_energies,
    partition,
    scale_blocks,
    unblocked_energy,
)
from pfn_optax.status import Status

DEFAULT_CAPACITY = "jacobian_rank"

Side = Literal["source", "sink"]


class PFNState(NamedTuple):
    """State of `pfn` and `with_pfn`: arrays of fixed shape and unique names.

    Read one anywhere in a chain by `optax.tree.get(state, "pfn_cut")`.

    Attributes:
        pfn_step: i32[], steps taken.
        pfn_measured: i32[], steps whose gradient norms went into the EMA.
        pfn_nonfinite: i32[], steps whose gradients held NaN or infinity and were not measured.
        pfn_diagnoses: i32[], certified diagnoses.
        pfn_norms: f32[num_blocks], bias-corrected EMA of each block's raw gradient norm.
        pfn_capacities: f32[num_blocks], capacities at the last diagnosis.
        pfn_cut: bool[num_blocks], in the cut at the last certified diagnosis: the bottleneck
            blocks.
        pfn_persistence: i32[num_blocks], consecutive earlier certified diagnoses in the cut.
        pfn_multipliers: f32[num_blocks], what the updates of each block are multiplied by.
        pfn_flow: f32[], value of the maximum flow at the last diagnosis.
        pfn_certified: bool[], whether that flow and cut are proven optimal.
        pfn_unique: bool[], whether it is the only minimum cut (up to rounding).
        pfn_rounds: i32[], push-relabel rounds it took.
        pfn_status: i32[], a `Status`.
    """

    pfn_step: jax.Array
    pfn_measured: jax.Array
    pfn_nonfinite: jax.Array
    pfn_diagnoses: jax.Array
    pfn_norms: jax.Array
    pfn_capacities: jax.Array
    pfn_cut: jax.Array
    pfn_persistence: jax.Array
    pfn_multipliers: jax.Array
    pfn_flow: jax.Array
    pfn_certified: jax.Array
    pfn_unique: jax.Array
    pfn_rounds: jax.Array
    pfn_status: jax.Array


class WithPFNState(NamedTuple):
    """State of `with_pfn`.

    Attributes:
        pfn_state: the diagnosis.
        inner_state: state of the wrapped optimizer.
    """

    pfn_state: PFNState
    inner_state: optax.OptState


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


def chain_of(layout: Partition) -> FlowGraph:
    """The default graph: the layers as a chain in natural path order, the first at the data."""
    return FlowGraph.chain(layer.name for layer in layout.layers)


class _Numbers(NamedTuple):
    """The options that may be traced (by `optax.inject_hyperparams`)."""

    every: jax.Array | int
    ema_decay: jax.Array | float
    beta: jax.Array | float
    gamma: jax.Array | float
    max_persistence: jax.Array | int


@dataclass(frozen=True)
class _Options:
    """The options that shape the program: hashable, so that eager calls reuse what is compiled."""

    block_size: int | None
    num_blocks: int | None
    output_axis: OutputAxis | None
    capacity: str | CapacityFn
    graph: FlowGraph | None
    ema_window: int | None
    renormalize: bool
    side: Side

    def layout(self, tree: Any) -> Partition:
        rows = partition(
            tree,
            block_size=self.block_size,
            num_blocks=self.num_blocks,
            output_axis=self.output_axis,
        )
        if self.graph is None or self.graph.layout is None or not rows.layers:
            return rows
        self.graph.layout.leaves(tree)  # reports a tree that the graph was not made for
        return self.graph.layout

    def bound(self, layout: Partition) -> BoundGraph:
        return (self.graph or chain_of(layout)).bind(layout)


class _Core:
    """What `pfn` and `with_pfn` share."""

    def __init__(self, *, every, ema_decay, beta, gamma, max_persistence, **options):
        self.numbers = _Numbers(every, ema_decay, beta, gamma, max_persistence)
        self.options = _Options(**options)
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
        sizes = self.options.block_size, self.options.num_blocks, self.options.output_axis
        if graph is not None and graph.layout is not None and sizes != (None, None, None):
            raise ValueError(
                "this graph brings its own blocks: give block_size or num_blocks to the function "
                "that made it, not here."
            )
        self.options.layout({})  # reports bad block sizes
        capacity_rule(self.options.capacity)

    def init(self, params: Any) -> PFNState:
        layout = self.options.layout(params)
        if layout.layers:  # none in the placeholder of `optax.tree.map_params`
            self.options.bound(layout)

        def count():
            return jnp.zeros((), jnp.int32)

        def blocks(dtype=jnp.float32):
            return jnp.zeros(layout.num_blocks, dtype)

        return PFNState(
            pfn_step=count(),
            pfn_measured=count(),
            pfn_nonfinite=count(),
            pfn_diagnoses=count(),
            pfn_norms=blocks(),
            pfn_capacities=blocks(),
            pfn_cut=blocks(bool),
            pfn_persistence=blocks(jnp.int32),
            pfn_multipliers=blocks() + 1,
            pfn_flow=jnp.zeros((), jnp.float32),
            pfn_certified=jnp.zeros((), bool),
            pfn_unique=jnp.zeros((), bool),
            pfn_rounds=count(),
            pfn_status=jnp.asarray(Status.WAITING, jnp.int32),
        )

    def observe(self, gradients: Any, state: PFNState, params: Any) -> PFNState:
        """One step: measure the gradients, and diagnose when it is time."""
        layout = self.options.layout(gradients)
        if layout.num_blocks != state.pfn_norms.shape[-1]:
            raise ValueError(
                f"the gradients make {layout.num_blocks} blocks ({_summary(layout)}), but the "
                f"state was initialised with {state.pfn_norms.shape[-1]}: call init with the same "
                "tree."
            )
        return _observe(
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


@functools.partial(jax.jit, static_argnums=(0, 1))
def _observe(
    options: _Options,
    layout: Partition,
    numbers: _Numbers,
    gradients: dict[Path, jax.Array],
    params: dict[Path, jax.Array] | None,
    state: PFNState,
) -> PFNState:
    """The step on the leaves in blocks. Compiled once also where the caller runs eagerly."""
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
    return _when((phase == 0) & is_finite, diagnose, params, state)


def _when(
    is_due: jax.Array,
    function: Callable[[dict[Path, jax.Array] | None, PFNState], PFNState],
    params: dict[Path, jax.Array] | None,
    state: PFNState,
) -> PFNState:
    """Applies a function of (params, state) if it is due, as a loop of one round or none.

    A `lax.cond` would become a select under `vmap` and run the function at every step; a loop runs
    it only when it is due for any of the batch.
    """

    def once(carry):
        # The barrier ties the parameters to the carry. Else XLA moves what depends on them alone
        # (the ranks) out of the loop under `vmap`, to where it runs at every step.
        return jnp.zeros_like(is_due), function(*jax.lax.optimization_barrier((params, carry[1])))

    return jax.lax.while_loop(lambda carry: carry[0], once, (is_due, state))[1]


def _measure(
    options: _Options,
    layout: Partition,
    numbers: _Numbers,
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
    options: _Options,
    layout: Partition,
    numbers: _Numbers,
    params: dict[Path, jax.Array] | None,
    state: PFNState,
) -> PFNState:
    """Capacities, maximum flow, cut, persistence, multipliers: the study's sections 3.2 to 3.5."""
    bound = options.bound(layout)
    rule = capacity_rule(options.capacity)
    known = Statistics(state.pfn_norms, params, layout)
    capacities = rule.block_capacities(known, layout)
    on_edges = bound.edge_capacities(capacities, rule)
    result = max_flow(bound.network, on_edges, side=options.side)
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
    )


def _cut_blocks(bound: BoundGraph, cut: jax.Array, num_blocks: int) -> jax.Array:
    """A block is in the cut where any of its edges is; identities (block -1) fall off the end."""
    blocks = jnp.where(bound.edge_block >= 0, bound.edge_block, num_blocks)
    return jnp.zeros(num_blocks, bool).at[blocks].max(cut, mode="drop")


def _check(name: str, value: Any, rule: str, is_met: Callable[[Any], bool]) -> None:
    """Checks a constant; traced values (under `optax.inject_hyperparams`) cannot be checked."""
    if isinstance(value, numbers.Real) and not is_met(value):
        raise ValueError(f"{name} must be {rule}, got {value!r}.")


def _summary(layout: Partition) -> str:
    names = [layer.name for layer in layout.layers]
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") or "no layers"
