"""What is lost in narrow floating-point types: updates to rounding, gradients to underflow."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.diagnosis.case import Case, Skip
from pfn_optax.diagnosis.finding import Cause, Evidence, Finding, Severity
from pfn_optax.diagnosis.training import measure_training
from pfn_optax.paths import named_leaves
from pfn_optax.table import listed
from pfn_optax.tracing import Program, trace

_POWERS = (4, 8, 12, 15, 20)  # of two, the factors on the loss that are tried


def check_low_precision(case: Case) -> Iterator[Finding]:
    """Looks for underflow where the range is narrow, and for lost updates where precision is."""
    params, batch = case.setup.params, case.setup.batch
    program = trace(case.loss, params, batch).program
    if any(_has_narrow_range(dtype) for dtype in _dtypes(program)):
        yield from _underflow(case)
    narrow = [_is_narrow(leaf.dtype) for _, leaf in named_leaves(params)]
    if any(narrow):
        yield from _lost_updates(case, np.asarray(narrow))


def _lost_updates(case: Case, narrow: np.ndarray) -> Iterator[Finding]:
    training = case.once(measure_training)
    steps = training.steps.steps
    if not steps or not np.isfinite(steps[0].update).all():
        return
    energy = np.where(narrow, np.float64(steps[0].update) ** 2, 0)
    if not energy.any():
        return
    share = float((energy * steps[0].lost).sum() / energy.sum())
    limits = case.thresholds
    if share <= limits.lost_updates:
        return
    order = np.argsort(-energy * steps[0].lost)
    paths = [training.names[i] for i in order if narrow[i] and steps[0].lost[i] > 0]
    layers = tuple(dict.fromkeys(map(case.layer_of, paths)))
    kinds = sorted({str(leaf.dtype) for _, leaf in named_leaves(case.setup.params)})
    yield Finding(
        Cause.LOW_PRECISION,
        Severity.CRITICAL if share > limits.most_updates_lost else Severity.WARNING,
        f"{share:.0%} of the update is lost to rounding: it is below the spacing of the "
        f"parameters' numbers ({', '.join(kinds)}), so adding it leaves them as they are.",
        "Keep the parameters in float32 and compute in the narrow type: in Flax "
        "param_dtype=jnp.float32, dtype=jnp.bfloat16.",
        (Evidence("share of the update's energy lost to rounding", share, limits.lost_updates),),
        layers,
        excess=share / limits.lost_updates,
    )


def _underflow(case: Case) -> Iterator[Finding]:
    params, batch = case.setup.params, case.setup.batch

    def gradients(params: Any, batch: Any, factor: jax.Array) -> Any:
        def scaled(params: Any) -> jax.Array:
            value = case.loss(params, batch)
            return value * factor.astype(value.dtype)

        return jax.grad(scaled, allow_int=True)(params)

    compiled = case.budget.compile(
        gradients, params, batch, jnp.float32(1), what="gradients of a scaled loss", num_runs=6
    )

    def nonzero(power: int) -> list[np.ndarray] | None:
        leaves = jax.device_get(jax.tree.leaves(compiled(params, batch, jnp.float32(2.0**power))))
        leaves = [
            np.asarray(leaf, np.float32) for leaf in leaves if leaf.dtype != jax.dtypes.float0
        ]
        return [leaf != 0 for leaf in leaves] if all(map(_is_finite, leaves)) else None

    found = {power: masks for power in (0, *_POWERS) if (masks := nonzero(power)) is not None}
    if 0 not in found:
        raise Skip("the gradient is not finite, so what underflows cannot be told")
    counts = {power: sum(int(mask.sum()) for mask in masks) for power, masks in found.items()}
    most = max(counts.values())
    share = 1 - counts[0] / most if most else 0.0
    limits = case.thresholds
    case.measures["underflow_share"] = share
    if share <= limits.underflow:
        return
    power = next(power for power, count in counts.items() if count >= 0.99 * most)
    names = [path for path, leaf in named_leaves(params) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    best = found[power]
    lost = [float(np.sum(b & ~a)) / max(b.sum(), 1) for a, b in zip(found[0], best, strict=True)]
    order = [i for i in np.argsort(lost)[::-1] if lost[i] > limits.underflow]
    layers = tuple(dict.fromkeys(case.layer_of("/".join(names[i])) for i in order))
    yield Finding(
        Cause.LOW_PRECISION,
        Severity.CRITICAL if share > limits.most_underflow else Severity.WARNING,
        f"{share:.0%} of the gradient's entries are 0 only because they underflow on the way back, "
        f"most in {listed(layers, 3)}.",
        f"Multiply the loss by {2**power} before the gradient is taken and divide the gradient by "
        "it, in float32, after; or compute in bfloat16, whose range is that of float32.",
        (Evidence("share of gradient entries that underflow", share, limits.underflow),),
        layers,
        excess=share / limits.underflow,
    )


def _is_finite(leaf: np.ndarray) -> bool:
    return bool(np.isfinite(leaf).all())


def _dtypes(program: Program) -> set[Any]:
    """Of all values that a program computes."""
    found = {variable.dtype for variable in program.inputs}
    for equation in program.equations:
        found |= {variable.dtype for variable in equation.outputs}
        for body in equation.bodies:
            found |= _dtypes(body)
    return found


def _is_narrow(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


def _has_narrow_range(dtype: Any) -> bool:
    """Whether its smallest number is above float32's, as in float16 and not in bfloat16."""
    return _is_narrow(dtype) and float(jnp.finfo(dtype).tiny) > 1e-30
