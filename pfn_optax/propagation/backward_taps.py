"""Gradients with respect to the preactivations of every layer: the profile of a backward pass.

Each tap is the identity, with a second argument that it ignores and whose gradient it declares to
be the measure of its own. So the measures come out of the ordinary backward pass, and no gradient
of an activation is kept for them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pfn_optax.propagation.tap_plan import TappedLayer, plan_taps, run_taps, units_last
from pfn_optax.propagation.tapped import TappedFunction

GradientMeasure = Callable[[jax.Array], Any]


class BackwardTapped(NamedTuple):
    """What `BackwardTaps` return.

    Attributes:
        value: f[], the loss.
        aux: what else the loss returns; None without `has_aux`.
        gradients: of the loss with respect to the parameters.
        layers: by name of the layer, in the order of execution, what was asked for.
    """

    value: jax.Array
    aux: Any
    gradients: Any
    layers: dict[str, Any]


@dataclass(frozen=True, eq=False)
class BackwardTaps(TappedFunction):
    """A loss with taps on its way back, made by `backward_taps`.

    Attributes:
        layers: the tapped layers in the order of execution, or in that asked for.
        missed: layers without a tap, and why.
    """

    measure: GradientMeasure
    has_aux: bool

    def __call__(self, params: Any, *args: Any) -> BackwardTapped:
        """Computes loss and gradients; arguments of other shapes are traced anew."""
        plan = self.plan_for(params, *args)

        def run(params, slots):
            output, _ = run_taps(
                plan, (params, *args), lambda *_: (), inject=self._inject, slots=slots
            )
            return output if self.has_aux else (output, None)

        slots = {layer.name: slot_of(layer, self.measure) for layer in plan.layers}
        (value, aux), (gradients, found) = jax.value_and_grad(run, (0, 1), has_aux=True)(
            params, slots
        )
        return BackwardTapped(value, aux, gradients, {name: found[name] for name in self.names})

    def _inject(self, layer: TappedLayer, pre: jax.Array, slot: Any) -> jax.Array:
        return tap_backward(layer, pre, slot, self.measure)


def backward_taps(
    loss: Callable[..., Any],
    params: Any,
    *args: Any,
    measure: GradientMeasure | None = None,
    layers: Sequence[str] | None = None,
    has_aux: bool = False,
) -> BackwardTaps:
    r"""Taps the gradients of a loss with respect to the preactivations of every layer.

    With :math:`h_l` the preactivations of the whole batch, by default the norms
    :math:`\| \partial L / \partial h_l \|`; their `log_slope` over the layers says whether
    gradients vanish (s > 0) or explode (s < 0) on their way to the data. The gradients of the
    parameters come from the same pass.

    Layers are found as by `activation_taps`; of those in a scan each round is measured.

    Args:
        loss: `loss(params, *args)` to a real scalar.
        params: its parameters; here only shapes are read.
        *args: its other arguments, likewise.
        measure: function of a gradient f[..., width] to a tree of floating arrays; by default its
            norm. To keep the gradients: `lambda gradient: gradient`.
        layers: names of the layers to tap, in the order wanted; all by default.
        has_aux: whether the loss returns (scalar, anything).

    Returns:
        A function of `(params, *args)` to `BackwardTapped`, which may be jitted and mapped.

    Raises:
        ValueError: as `activation_taps`; if the loss is no real scalar, a measure is not floating,
            or a layer is inside of a function with a derivative rule of its own.
        TypeError: if an argument is not an array.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.propagation import backward_taps
        >>> params = {"in": {"w": jnp.eye(2)}, "out": {"w": 3 * jnp.ones((2, 1))}}
        >>> def loss(params, x):
        ...     return jnp.sum(jnp.tanh(x @ params["in"]["w"]) @ params["out"]["w"])
        >>> x = jnp.zeros((2, 2))
        >>> found = backward_taps(loss, params, x)(params, x)
        >>> print(found.layers["in"], found.layers["out"].round(4))
        6.0 1.4142
    """
    plan = plan_taps(loss, params, *args, layers=layers)
    for layer in plan.layers:
        if layer.rules:
            raise ValueError(
                f"{layer.name!r} is inside of a function with a derivative rule of its own "
                "(jax.custom_vjp, jax.custom_jvp), which a tap would undo: leave it out, "
                f"layers={[one.name for one in plan.layers if not one.rules]}."
            )
    shape = jax.eval_shape(loss, params, *args)
    value = shape[0] if has_aux else shape
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"the loss must return one real number, got {value}: reduce it (jnp.mean), or pass "
            "has_aux=True if it returns (loss, anything)."
        )
    taps = BackwardTaps(
        loss, plan, None if layers is None else plan.names, measure or gradient_norm, has_aux
    )
    for leaf in jax.tree.leaves(jax.eval_shape(lambda: slot_of(plan.layers[0], taps.measure))):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"a measure of gradients must return floating arrays, got {leaf.dtype}: convert it."
            )
    return taps


def slot_of(layer: TappedLayer, measure: GradientMeasure) -> Any:
    """Returns zeros like the measures of one layer, for `tap_backward`."""
    shapes = jax.eval_shape(measure, jax.ShapeDtypeStruct(layer.shape, layer.dtype))
    return jax.tree.map(lambda leaf: jnp.zeros((*layer.rounds, *leaf.shape), leaf.dtype), shapes)


def tap_backward(
    layer: TappedLayer, pre: jax.Array, slot: Any, measure: GradientMeasure
) -> jax.Array:
    """Returns preactivations as they are; the gradient of the slot is said to be the measure's."""

    @jax.custom_vjp
    def tap(pre, slot):
        del slot
        return pre

    def backward(_, gradient):
        return gradient, measure(units_last(gradient, layer.site.pre_axes))

    tap.defvjp(lambda pre, slot: (pre, None), backward)
    return tap(pre, slot)


def gradient_norm(gradient: jax.Array) -> jax.Array:
    """Returns the norm of all entries, whatever their scale, in float32 at least."""
    wide = gradient.astype(jnp.promote_types(gradient.dtype, jnp.float32))
    largest = jnp.max(jnp.abs(wide), initial=0.0)
    is_plain = (largest > 0) & jnp.isfinite(largest)
    scale = jnp.where(is_plain, largest, 1.0)
    return scale * jnp.sqrt(jnp.sum(jnp.abs(wide / scale) ** 2))
