"""What `pfn` carries from step to step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from pfn_optax.flow import FlowNetwork, WarmStart
from pfn_optax.status import Status


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
        pfn_warm: the last certified flow and cut, where the next solve starts; empty without
            `warm_start`.
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
    pfn_warm: WarmStart | tuple[()] = ()


class WithPFNState(NamedTuple):
    """State of `with_pfn`.

    Attributes:
        pfn_state: the diagnosis.
        inner_state: state of the wrapped optimizer.
    """

    pfn_state: PFNState
    inner_state: optax.OptState


def initial_state(num_blocks: int, network: FlowNetwork | None) -> PFNState:
    """Returns the state before the first step.

    Args:
        num_blocks: number of blocks of the parameters.
        network: the network of which the state keeps the last flow, or None.

    Returns:
        Zeros, with multipliers of one.
    """

    def count():
        return jnp.zeros((), jnp.int32)

    def blocks(dtype=jnp.float32):
        return jnp.zeros(num_blocks, dtype)

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
        pfn_warm=() if network is None else WarmStart.zeros(network),
    )
