"""The Lyapunov spectrum during training: an optax transformation that only looks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pfn_optax.dynamics.spectrum import lyapunov_spectrum
from pfn_optax.dynamics.status import DynamicsStatus
from pfn_optax.dynamics.steps import Step
from pfn_optax.when import when


class LyapunovProbeState(NamedTuple):
    """State of `lyapunov_probe`.

    Attributes:
        lyapunov_step: i32[], steps so far.
        lyapunov_probes: i32[], how many times the exponents were measured.
        lyapunov_exponents: f[k], nats per unit of time, at the last probe whose trajectory was
            finite; zeros before the first.
        lyapunov_standard_error: f[k], of them.
        lyapunov_first_nonfinite: i32[], where the trajectory of the last probe was first not
            finite, -1 if it was.
        lyapunov_status: i32[], a `DynamicsStatus` of the last probe.
    """

    lyapunov_step: jax.Array
    lyapunov_probes: jax.Array
    lyapunov_exponents: jax.Array
    lyapunov_standard_error: jax.Array
    lyapunov_first_nonfinite: jax.Array
    lyapunov_status: jax.Array


def lyapunov_probe(
    step_of: Callable[[Any], Step],
    state: Any,
    *,
    inputs: Any = None,
    every: int = 100,
    num_exponents: int | None = 1,
    num_steps: int | None = None,
    qr_every: int = 1,
    num_transient: int = 0,
    time_step: float = 1.0,
    num_points: int = 100,
) -> optax.GradientTransformationExtraArgs:
    """Records the largest Lyapunov exponents every some steps, and passes the updates through.

    A gradient through T steps of the system grows or shrinks like exp(T times the exponents): near
    zero it trains, far below it vanishes, far above it explodes.

    The system is that of the parameters given to `update`, those before the step. Steps between
    probes cost one comparison, also under `vmap`.

    Args:
        step_of: params -> step, such as `lambda params: cell_step(cell, {"params": params})`.
        state: the first state of the system, as for `lyapunov_spectrum`.
        inputs: what drives it, with a leading axis of time. By default `update` may take it as the
            extra argument `lyapunov_inputs`, such as the sequence of the batch.
        every: steps between probes; the first is at step `every`.
        num_exponents: how many of the largest, k; None for all.
        num_steps: recorded steps of the system in a probe; by default as many as there are inputs
            for.
        qr_every: steps of the system between QR decompositions.
        num_transient: steps of the system before recording.
        time_step: units of time in a step of the system.
        num_points: blocks, of which the standard errors come.

    Returns:
        A transformation with state `LyapunovProbeState`.

    Raises:
        ValueError: from here, if `every` is not positive; from `update`, if there are no `params`,
            or an option does not fit the system (see `lyapunov_spectrum`).

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from pfn_optax.dynamics import lyapunov_probe
        >>> probe = lyapunov_probe(lambda w: lambda h: w * h, jnp.ones(1), every=1, num_steps=10)
        >>> optimizer = optax.chain(probe, optax.sgd(0.1))
        >>> weight = jnp.float32(0.5)
        >>> updates, state = optimizer.update(jnp.ones(()), optimizer.init(weight), weight)
        >>> print(updates, optax.tree.get(state, "lyapunov_exponents"))  # ln 0.5
        -0.1 [-0.6931472]
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}.")

    def init(params):
        del params
        size = sum(jnp.size(leaf) for leaf in jax.tree.leaves(state))
        dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(state))
        num_values = size if num_exponents is None else num_exponents
        return LyapunovProbeState(
            lyapunov_step=jnp.zeros((), jnp.int32),
            lyapunov_probes=jnp.zeros((), jnp.int32),
            lyapunov_exponents=jnp.zeros(num_values, dtype),
            lyapunov_standard_error=jnp.zeros(num_values, dtype),
            lyapunov_first_nonfinite=jnp.full((), -1, jnp.int32),
            lyapunov_status=jnp.asarray(DynamicsStatus.WAITING, jnp.int32),
        )

    def probe(driven, known):
        params, given = driven
        found = lyapunov_spectrum(
            step_of(params),
            state,
            num_steps=num_steps,
            inputs=given,
            num_exponents=num_exponents,
            qr_every=qr_every,
            num_transient=num_transient,
            time_step=time_step,
            num_points=num_points,
        )
        is_good = found.status != DynamicsStatus.NONFINITE

        def kept(new, old):
            return jnp.where(is_good, new, old)

        return LyapunovProbeState(
            lyapunov_step=known.lyapunov_step,
            lyapunov_probes=known.lyapunov_probes + is_good.astype(jnp.int32),
            lyapunov_exponents=kept(found.exponents, known.lyapunov_exponents),
            lyapunov_standard_error=kept(found.standard_error, known.lyapunov_standard_error),
            lyapunov_first_nonfinite=found.first_nonfinite,
            lyapunov_status=found.status,
        )

    def update(updates, state, params=None, **extra_args):
        if params is None:
            raise ValueError("lyapunov_probe needs the parameters: update(updates, state, params).")
        given = extra_args.get("lyapunov_inputs") if inputs is None else inputs
        state = state._replace(lyapunov_step=optax.safe_increment(state.lyapunov_step))
        is_due = state.lyapunov_step % every == 0
        # The exponents are recorded, not differentiated.
        driven, state = jax.lax.stop_gradient(((params, given), state))
        return updates, when(is_due, probe, driven, state)

    return optax.GradientTransformationExtraArgs(init, update)
