"""Optimizers of learning rate 1 on a cosine schedule; the program multiplies by the rate."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

WEIGHT_DECAY = {"sgd": 5e-4, "adamw": 1e-2}
TRUST = 0.1  # of LARS, so that its rates are in the range of SGD's, as those of its biases must
CLIPPING = 0.1  # of a unit's gradient norm to its weight norm; Brock et al. 2021 for small batches


def unit_rate(name: str, *, steps: int) -> optax.GradientTransformationExtraArgs:
    """Make an optimizer whose updates are proportional to the learning rate, at rate 1.

    Args:
        name: `"sgd"` (momentum .9), `"adamw"`, `"lars"`, `"lamb"`, `"muon"` (on kernels, Adam on
            the rest), `"agc_sgd"` or `"agc_adamw"` (adaptive gradient clipping).
        steps: Length of the cosine from 1 to 0.

    Returns:
        The transformation.

    Raises:
        ValueError: If there is no such optimizer.
    """
    schedule = optax.cosine_decay_schedule(1.0, steps)
    coupled, decoupled = WEIGHT_DECAY["sgd"], WEIGHT_DECAY["adamw"]
    match name:
        case "sgd":
            sgd = optax.sgd(schedule, momentum=0.9)
            made = optax.chain(optax.add_decayed_weights(coupled), sgd)
        case "adamw":
            made = optax.adamw(schedule, weight_decay=decoupled)
        case "lars":
            made = optax.lars(
                schedule,
                weight_decay=coupled,
                trust_coefficient=TRUST,
                trust_ratio_mask=_matrices,
            )
        case "lamb":
            made = optax.lamb(schedule, weight_decay=decoupled)
        case "muon":
            made = contrib.muon(
                schedule,
                weight_decay=decoupled,
                adam_weight_decay=decoupled,
                muon_weight_dimension_numbers=_kernels,
            )
        case "agc_sgd" | "agc_adamw":
            inner = unit_rate(name.removeprefix("agc_"), steps=steps)
            made = optax.chain(optax.adaptive_grad_clip(CLIPPING), inner)
        case _:
            raise ValueError(f"optimizer must be sgd, adamw, lars, lamb, muon or agc_; got {name}")
    return optax.with_extra_args_support(made)


def _matrices(params: Any) -> Any:
    """What LARS scales: its paper leaves biases and norms out."""
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)


def _kernels(params: Any) -> Any:
    """Kernels as matrices from their patch to their channels out."""

    def numbers(leaf: Any) -> contrib.MuonDimensionNumbers | None:
        last = jnp.ndim(leaf) - 1
        if last < 1:
            return None
        return contrib.MuonDimensionNumbers(reduction_axis=tuple(range(last)), output_axis=last)

    return jax.tree.map(numbers, params)
