"""One run of loss and gradient, with taps: what comes to each layer, what goes out, what returns.

Everything that is said of signals rests on this one program. It returns a few rows of activations
and some sums; whatever needs more than a sum is computed of them on the host, since compiling
would take longer.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.diagnosis.arguments import is_floating
from pfn_optax.diagnosis.case import Case
from pfn_optax.diagnosis.leaves import LeafNumbers, by_path, leaf_numbers
from pfn_optax.propagation.backward_taps import gradient_norm, slot_of, tap_backward
from pfn_optax.propagation.tap_plan import TappedLayer, TapPlan, plan_taps, run_taps

_MOST_ROWS = 128  # of activations, kept of each layer
_FEWEST_ROWS = 16  # of each round of a loop


@dataclass(frozen=True, eq=False)
class LayerSignal:
    """What one layer does to one batch; arrays are of the rounds of the loop it is in, or of one.

    Attributes:
        name: of the layer; with `[3]` in a stack of layers that a loop goes through.
        layer: its name in `partition`, without what tells one use from another.
        leaf: key path of its matrix.
        activation: last operation of its activation; None if it has none.
        bounds: the activation's range, if finite.
        is_recurrent: whether the rounds are time.
        given_rms: f[rounds], root mean square of what its matrix is applied to; NaN of integers.
        given_mean: f[rounds], the mean of that.
        given_features: f[rounds, features], its root mean square along its last axis.
        pre_rms: f[rounds], of its preactivations.
        post_rms: f[rounds], of its activations.
        pre: f[rounds, rows, width], preactivations of some samples (and positions), evenly spaced.
        post: f[rounds, rows, width or another], the same of activations.
        unit_peak: f[rounds, width], the largest magnitude of each unit's activations.
        is_finite: bool[rounds, 3], whether what it is given, puts out, and activates is finite.
        backward_norm: f[rounds], L2 norm of the gradient with respect to its preactivations.
        unit_gradient: f[rounds, width], the same by unit.
    """

    name: str
    layer: str
    leaf: str
    activation: str | None
    bounds: tuple[float, float] | None
    is_recurrent: bool
    given_rms: np.ndarray
    given_mean: np.ndarray
    given_features: np.ndarray
    pre_rms: np.ndarray
    post_rms: np.ndarray
    pre: np.ndarray
    post: np.ndarray
    unit_peak: np.ndarray
    is_finite: np.ndarray
    backward_norm: np.ndarray
    unit_gradient: np.ndarray

    @property
    def width(self) -> int:
        """Units that it puts out."""
        return self.pre.shape[-1]

    @property
    def has_real_input(self) -> bool:
        """Whether its matrix is applied to numbers; an embedding's is not."""
        return not np.isnan(self.given_rms).all()

    @property
    def gain(self) -> float | None:
        """Mean square of preactivations over that of its input, the largest of all rounds."""
        is_known = self.given_rms > 0
        if not is_known.any():
            return None
        return float(np.max((self.pre_rms[is_known] / self.given_rms[is_known]) ** 2))

    @property
    def dead_share(self) -> float:
        """Share of units that are 0 for every example in every round."""
        return float((self.unit_peak == 0).all(axis=0).mean())

    @property
    def saturated_share(self) -> float | None:
        """Share of activations at an end of their range, by 2.5% of it; None without a range."""
        if self.bounds is None:
            return None
        lower, upper = self.bounds
        near = 0.025 * (upper - lower)
        return float(((self.post <= lower + near) | (self.post >= upper - near)).mean())


@dataclass(frozen=True, eq=False)
class Signal:
    """What one run of loss and gradient shows.

    Attributes:
        loss: the loss.
        gradients: its gradients, a tree like the parameters; zero for integers.
        gradient_numbers: of them, by path of the leaf.
        layers: the layers in the order of execution; empty if none was recognised.
        missed: layers without a tap, and why.
        trouble: why there are no layers, or "".
        run: the compiled program, to be run again: of (params, batch) to (loss, gradients, their
            `leaf_numbers`, ...).
    """

    loss: float
    gradients: Any
    gradient_numbers: dict[str, LeafNumbers]
    layers: tuple[LayerSignal, ...]
    missed: dict[str, str]
    trouble: str
    run: Callable[[Any, Any], Any]


def measure_signal(case: Case) -> Signal:
    """Compiles and runs loss and gradient with taps; for `case.once`.

    Raises:
        Skip: if there is not the time or the memory.
    """
    params, batch = case.setup.params, case.setup.batch
    plan, missed, trouble = _plan(case)

    def run(params: Any, batch: Any) -> Any:
        def tapped(params: Any, slots: Any) -> Any:
            if plan is None:
                return case.loss(params, batch), {}
            return run_taps(plan, (params, batch), _forward, inject=_inject, slots=slots)

        slots = {layer.name: slot_of(layer, _backward) for layer in plan.layers} if plan else {}
        (loss, forward), (gradients, backward) = jax.value_and_grad(
            tapped, (0, 1), has_aux=True, allow_int=True
        )(params, slots)
        gradients = jax.tree.map(
            lambda leaf, own: own if is_floating(leaf) else jnp.zeros_like(leaf), params, gradients
        )
        return loss, gradients, leaf_numbers(gradients), forward, backward

    compiled = case.budget.compile(run, params, batch, what="loss and gradient", num_runs=3)
    loss, gradients, numbers, forward, backward = compiled(params, batch)
    forward, backward = jax.device_get((forward, backward))
    layers: list[LayerSignal] = []
    for layer in plan.layers if plan else ():
        layers.extend(_layers(case, layer, forward[layer.name], backward[layer.name]))
    case.measures["loss"] = float(loss)
    found = by_path(gradients, numbers)
    case.measures["gradient_norm"] = math.hypot(*(leaf.norm for leaf in found.values()))
    return Signal(float(loss), gradients, found, tuple(layers), missed, trouble, compiled)


def _plan(case: Case) -> tuple[TapPlan | None, dict[str, str], str]:
    """The taps; without the layers inside of functions with a derivative rule of their own."""
    params, batch = case.setup.params, case.setup.batch
    try:
        plan = plan_taps(case.loss, params, batch)
        ruled = {
            layer.name: "has a derivative rule around it" for layer in plan.layers if layer.rules
        }
        missed = {**plan.missed, **ruled}
        if ruled:
            kept = [layer.name for layer in plan.layers if not layer.rules]
            plan = plan_taps(case.loss, params, batch, layers=kept) if kept else None
    except ValueError as error:
        return None, {}, str(error)
    return plan, missed, "" if plan else "all layers have derivative rules around them"


def _forward(
    layer: TappedLayer, given: jax.Array, pre: jax.Array, post: jax.Array
) -> dict[str, jax.Array]:
    given, pre, post = jax.lax.stop_gradient((given, pre, post))
    most = max(_MOST_ROWS * 8 // max(math.prod(layer.rounds), 8), _FEWEST_ROWS)
    samples = tuple(range(post.ndim - 1))
    return {
        "given_mean": _mean(given, given.ndim),
        "given_features": jnp.sqrt(_mean(given**2, given.ndim - 1)),
        "rms": jnp.stack([_rms(given), _rms(pre), _rms(post)]),
        "pre": _some_rows(pre, most),
        "post": _some_rows(post, most),
        "unit_peak": jnp.max(jnp.abs(post), axis=samples),
        "is_finite": jnp.stack([_is_finite(value) for value in (given, pre, post)]),
    }


def _some_rows(values: jax.Array, most: int) -> jax.Array:
    rows = values.reshape(-1, values.shape[-1])
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]


def _is_finite(values: jax.Array) -> jax.Array:
    return jnp.isfinite(values).all() if is_floating(values) else jnp.ones((), bool)


def _rms(values: jax.Array) -> jax.Array:
    """Whatever the scale; in float32 at least."""
    if not is_floating(values):
        return jnp.full((), jnp.nan, jnp.float32)
    return gradient_norm(values).astype(jnp.float32) / math.sqrt(max(values.size, 1))


def _mean(values: jax.Array, num_axes: int) -> jax.Array:
    """Over the first axes; NaN of integers."""
    if not is_floating(values):
        return jnp.full(values.shape[num_axes:], jnp.nan, jnp.float32)
    wide = jnp.promote_types(values.dtype, jnp.float32)
    return jnp.mean(values, axis=tuple(range(num_axes)), dtype=wide)


def _inject(layer: TappedLayer, pre: jax.Array, slot: Any) -> jax.Array:
    return tap_backward(layer, pre, slot, _backward)


def _backward(gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    rows = gradient.reshape(-1, gradient.shape[-1])
    return gradient_norm(gradient), jax.vmap(gradient_norm, in_axes=1)(rows)


def _layers(case: Case, layer: TappedLayer, forward: Any, backward: Any) -> list[LayerSignal]:
    """The signal of one layer, or of each of a stack."""
    num_rounds = math.prod(layer.rounds)
    depth = len(layer.rounds)
    loops = [one for one in layer.site.within if one.primitive == "loop"]
    is_reversed = bool(loops) and bool(loops[-1].params.get("reverse"))

    def rounds_first(value: np.ndarray) -> np.ndarray:
        wide = np.asarray(value)
        if wide.dtype != bool:
            wide = wide.astype(np.float64)
        wide = wide.reshape(num_rounds, *wide.shape[depth:])
        return wide[::-1] if is_reversed else wide

    forward = {name: rounds_first(value) for name, value in forward.items()}
    norm, unit_gradient = map(rounds_first, backward)
    is_stack = layer.is_stacked and depth == 1
    names = {"/".join(known.path): known.name for known in case.layout.layers}

    def of(rounds: slice, suffix: str) -> LayerSignal:
        return LayerSignal(
            name=layer.name + suffix,
            layer=names.get(layer.paths[0], layer.name),
            leaf=layer.paths[0],
            activation=layer.activation,
            bounds=layer.bounds,
            is_recurrent=bool(depth) and not layer.is_stacked,
            given_rms=forward["rms"][rounds, 0],
            given_mean=forward["given_mean"][rounds],
            given_features=forward["given_features"][rounds],
            pre_rms=forward["rms"][rounds, 1],
            post_rms=forward["rms"][rounds, 2],
            pre=forward["pre"][rounds],
            post=forward["post"][rounds],
            unit_peak=forward["unit_peak"][rounds],
            is_finite=forward["is_finite"][rounds],
            backward_norm=norm[rounds],
            unit_gradient=unit_gradient[rounds],
        )

    if is_stack:
        return [of(slice(n, n + 1), f"[{n}]") for n in range(num_rounds)]
    return [of(slice(None), "")]
