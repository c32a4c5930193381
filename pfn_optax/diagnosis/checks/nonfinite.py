"""Values that are not finite: in what is given, in a layer, in the loss or in its gradient."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from pfn_optax.diagnosis.blame import Blamed, first_broken, first_steep
from pfn_optax.diagnosis.case import Case, Skip
from pfn_optax.diagnosis.finding import Cause, Evidence, Finding, Severity
from pfn_optax.diagnosis.leaves import LeafNumbers, measure_given
from pfn_optax.diagnosis.signal import Signal, measure_signal

_REMEDIES = {
    "log": "keep its argument from 0, jnp.log(x + 1e-6), or take jax.nn.log_softmax or "
    "jax.nn.log_sigmoid of the logits",
    "div": "keep its divisor from 0: add 1e-6, or jnp.where on the divisor before dividing",
    "sqrt": "keep its argument from 0, jnp.sqrt(x + 1e-12); its slope is infinite there",
    "rsqrt": "keep its argument from 0, jax.lax.rsqrt(x + 1e-6)",
    "pow": "keep its base from 0",
    "exp": "subtract the maximum before it (jax.nn.logsumexp, jax.nn.softmax), or clip",
}


def check_nonfinite(case: Case) -> Iterator[Finding]:
    """Looks at batch, parameters, layers, loss and gradients, and says which came first."""
    params, batch = case.once(measure_given)
    broken_given = [*_broken("batch", batch), *_broken("params", params)]
    signal = case.once(measure_signal)
    broken_gradients = _broken("params", signal.gradient_numbers)
    is_harmless = math.isfinite(signal.loss) and not broken_gradients
    for path, share in broken_given:
        yield _given(case, path, share, is_harmless=is_harmless)
    if is_harmless or broken_given:
        return
    if not math.isfinite(signal.loss):
        yield _of_loss(case, signal)
    else:
        yield _of_gradients(case, signal, broken_gradients)


def _broken(kind: str, numbers: Mapping[str, LeafNumbers]) -> list[tuple[tuple[str, str], float]]:
    """Paths of leaves with values that are not finite, and their share."""
    return [
        ((kind, path), leaf.broken_share) for path, leaf in numbers.items() if leaf.broken_share > 0
    ]


def _given(case: Case, place: tuple[str, str], share: float, *, is_harmless: bool) -> Finding:
    kind, path = place
    name = "/".join(filter(None, place))
    layers = (case.layer_of(path),) if kind == "params" else ()
    effect = "and loss and gradients are finite all the same" if is_harmless else "so everything is"
    remedy = (
        "Drop or impute these examples where the data is read; check for a division by a standard "
        "deviation of 0."
        if kind == "batch"
        else "Go back to an earlier checkpoint, or initialise anew; then lower the learning rate "
        "or clip gradients (optax.clip_by_global_norm(1.0), optax.apply_if_finite)."
    )
    return Finding(
        Cause.NONFINITE,
        Severity.NOTE if is_harmless else Severity.CRITICAL,
        f"{name} holds values that are NaN or infinite, {effect}.",
        remedy,
        (Evidence(f"share of {name} that is not finite", share, 0.0),),
        layers,
    )


def _of_loss(case: Case, signal: Signal) -> Finding:
    layer = next((one for one in signal.layers if not one.is_finite.all()), None)
    blamed = _blame(case, first_broken, case.loss)
    where = f"first in the activations of {layer.name}" if layer else "after all layers"
    by = _by(blamed)
    return Finding(
        Cause.NONFINITE,
        Severity.CRITICAL,
        f"The loss is {signal.loss}: {where}{by}.",
        _remedy(blamed),
        (Evidence("loss", signal.loss),),
        (layer.layer,) if layer else (),
    )


def _of_gradients(
    case: Case, signal: Signal, broken: list[tuple[tuple[str, str], float]]
) -> Finding:
    # On the way back the last layer comes first.
    layer = next(
        (one.layer for one in reversed(signal.layers) if not _is_finite(one.backward_norm)),
        case.layer_of(broken[-1][0][1]),
    )
    blamed = _blame(case, first_steep, case.loss) or _blame(
        case, first_broken, jax.grad(case.loss, allow_int=True)
    )
    return Finding(
        Cause.NONFINITE,
        Severity.CRITICAL,
        f"The loss is finite and its gradient is not, from {layer} back to the data{_by(blamed)}.",
        _remedy(blamed),
        (Evidence("parameters whose gradient is not finite", len(broken), 0.0),),
        (layer,),
    )


def _is_finite(values: Any) -> bool:
    return all(map(math.isfinite, values.ravel()))


def _blame(case: Case, search: Any, function: Any) -> Blamed | None:
    try:
        return search(case.budget, function, case.setup.params, case.setup.batch)
    except Skip:
        return None


def _by(blamed: Blamed | None) -> str:
    if blamed is None:
        return ""
    place = f" in {blamed.scope}" if blamed.scope else ""
    return f", by the operation `{blamed.primitive}`{place}"


def _remedy(blamed: Blamed | None) -> str:
    known = _REMEDIES.get(blamed.primitive) if blamed else None
    if blamed is None or known is None:
        return "jax.debug_nans(True) raises at the line; guard the operation there."
    return f"Of `{blamed.primitive}`: {known}."
