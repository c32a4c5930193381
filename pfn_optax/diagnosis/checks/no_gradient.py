"""Parameters that the loss does not depend on, by the program or by the numbers."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pfn_optax.diagnosis.arguments import is_floating
from pfn_optax.diagnosis.case import Case
from pfn_optax.diagnosis.finding import Cause, Evidence, Finding, Severity
from pfn_optax.diagnosis.leaves import LeafNumbers, by_path, measure_given
from pfn_optax.diagnosis.signal import measure_signal
from pfn_optax.paths import named_leaves
from pfn_optax.table import listed


def check_no_gradient(case: Case) -> Iterator[Finding]:
    """Asks the program which parameters the loss depends on, and the gradient which it changes."""
    params = case.setup.params
    unreached = case.unreached
    if unreached:
        yield _unreached(case, unreached)
    signal = case.once(measure_signal)
    zero = _zeros(signal.gradient_numbers, set(unreached))
    if not zero or not math.isfinite(signal.loss):
        return
    _, _, later, *_ = signal.run(_one_step(params, signal.gradients), case.setup.batch)
    lasting = set(_zeros(by_path(signal.gradients, later), set(unreached)))
    if stuck := tuple(path for path in zero if path in lasting):
        yield _zero(case, stuck)
    passing = tuple(path for path in zero if path not in lasting)
    if _num_matrices(case, passing):  # that of a bias may be 0 by the symmetry of the targets
        yield _passing(case, passing)


def _zeros(numbers: Mapping[str, LeafNumbers], without: set[str]) -> tuple[str, ...]:
    return tuple(
        path for path, leaf in numbers.items() if leaf.largest == 0 and path not in without
    )


def _one_step(params: Any, gradients: Any) -> Any:
    """A small step down, by a hundredth of the parameters at most, or of 1 where they are 0."""

    def step(leaf: Any, gradient: Any) -> Any:
        if not is_floating(leaf) or not jnp.size(leaf):
            return leaf
        size = jnp.max(jnp.abs(gradient))
        reach = jnp.maximum(jnp.max(jnp.abs(leaf)), jnp.asarray(1e-2, size.dtype))
        factor = 1e-2 * reach / jnp.where(size == 0, 1, size)
        return (leaf - factor * gradient).astype(leaf.dtype)

    return jax.tree.map(step, params, gradients)


def _num_matrices(case: Case, paths: tuple[str, ...]) -> int:
    heads = {"/".join(layer.path) for layer in case.layout.layers}
    return len(heads & set(paths))


def _layers(case: Case, paths: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(case.layer_of, paths)))


def _shown(case: Case, paths: tuple[str, ...]) -> str:
    """The layers; if no matrix is among them the leaves themselves, a layer's bias alone."""
    return listed(_layers(case, paths) if _num_matrices(case, paths) else paths, 4)


def _unreached(case: Case, paths: tuple[str, ...]) -> Finding:
    num_leaves = sum(is_floating(leaf) for _, leaf in named_leaves(case.setup.params))
    is_all = len(paths) == num_leaves
    summary = (
        "The loss depends on no parameter"
        if is_all
        else f"The loss does not depend on {_shown(case, paths)}"
    )
    return Finding(
        Cause.NO_GRADIENT,
        Severity.CRITICAL if _num_matrices(case, paths) else Severity.NOTE,
        f"{summary}: they are unused, or behind jax.lax.stop_gradient, a rounding, a comparison or "
        "an argmax, through which no gradient passes.",
        "Take the stop_gradient out, or use what these layers compute in the loss; if it is meant, "
        "leave them out of the optimizer (optax.masked, optax.multi_transform).",
        (Evidence("parameters without a path to the loss", len(paths), 0.0),),
        _layers(case, paths),
        excess=float(len(paths)),
    )


def _zero(case: Case, paths: tuple[str, ...]) -> Finding:
    given, _ = case.once(measure_given)
    zeros = [path for path in _zeros(given, set()) if _num_matrices(case, (path,))]
    why = f" Weights that are all 0 are those of {listed(_layers(case, tuple(zeros)), 4)}."
    return Finding(
        Cause.NO_GRADIENT,
        Severity.CRITICAL if _num_matrices(case, paths) else Severity.NOTE,
        f"The gradient with respect to {_shown(case, paths)} is exactly 0, and still is after a "
        f"step.{why if zeros else ''}",
        "Initialise weights at random (jax.nn.initializers.he_normal) and let only the last layer "
        "start at 0."
        if zeros
        else "Look at the layers between them and the loss: units that are dead or saturated, "
        "weights that are 0, or a factor that underflows.",
        (Evidence("parameters whose gradient is 0", len(paths), 0.0),),
        _layers(case, paths),
        excess=float(len(paths)),
    )


def _passing(case: Case, paths: tuple[str, ...]) -> Finding:
    return Finding(
        Cause.NO_GRADIENT,
        Severity.NOTE,
        f"The gradient with respect to {listed(_layers(case, paths), 4)} is 0 now and no longer "
        "after a step: weights between them and the loss start at 0.",
        "Nothing, if these weights are meant to start at 0 (the last layer, or the last of a "
        "residual branch).",
        (Evidence("parameters whose gradient is 0 at first", len(paths), 0.0),),
        _layers(case, paths),
    )
