"""Activations of every layer of a model that knows nothing of it, by running its program anew."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from pfn_optax.propagation.tap_plan import TappedLayer, plan_taps, run_taps
from pfn_optax.propagation.tap_statistics import activation_statistics
from pfn_optax.propagation.tapped import TappedFunction

Statistics = Callable[[jax.Array, jax.Array], Any]


class Tapped(NamedTuple):
    """What a tapped function returns.

    Attributes:
        output: what the function returns.
        layers: by name of the layer, in the order of execution, what was asked for.
    """

    output: Any
    layers: dict[str, Any]


@dataclass(frozen=True, eq=False)
class ActivationTaps(TappedFunction):
    """A function with taps, made by `activation_taps`.

    Attributes:
        layers: the tapped layers in the order of execution, or in that asked for.
        missed: layers without a tap, and why.
        statistics: what is computed of each layer's (pre, post).
    """

    statistics: Statistics | None

    def __call__(self, params: Any, *args: Any) -> Tapped:
        """Runs the function; arguments of other shapes are traced anew."""
        plan = self.plan_for(params, *args)
        output, found = run_taps(plan, (params, *args), self._measure)
        return Tapped(output, {name: found[name] for name in self.names})

    def _measure(
        self, layer: TappedLayer, given: jax.Array, pre: jax.Array, post: jax.Array
    ) -> Any:
        del given
        if self.statistics is None:
            return activation_statistics(pre, post, bounds=layer.bounds)
        return self.statistics(pre, post)


def activation_taps(
    function: Callable[..., Any],
    params: Any,
    *args: Any,
    statistics: Statistics | None = None,
    layers: Sequence[str] | None = None,
) -> ActivationTaps:
    """Taps the activations of every layer, of a Linen, NNX or plain function alike.

    A layer is tapped where its matrix is applied to data (product, convolution, embedding). Its
    preactivation is the output of that, after the bias of the layer. Its activation is the output
    of the first elementwise nonlinearity which that reaches, directly or through normalisation,
    dropout and sums (residual connections, gates); without any, the preactivation itself. (Powers
    and exponentials alone do not count, being what normalisations and losses are made of: tap the
    model, not its loss.)

    Layers in a scan are measured in it, and nothing of it is stored but the measures: these get a
    leading axis, of layers where the parameters are stacked, of time where they are not. A layer
    that is applied again has another name there, `"encoder:2"`; one that multiplies several
    matrices has the names of all, `"w+a+b"`.

    The function runs as it is, up to rounding and without rematerialisation. Differentiated, it
    obeys the derivative rules (`jax.custom_jvp`) of functions that hold no layer.

    Args:
        function: `function(params, *args)`, such as `module.apply`, or of an NNX module
            `lambda params, x: nnx.merge(graphdef, params, rest)(x)`.
        params: its parameters; here only shapes are read, `jax.ShapeDtypeStruct` will do.
        *args: its other arguments, likewise.
        statistics: function of (pre, post), both f[..., width], to any tree of arrays; by default
            `activation_statistics`. To keep the activations: `lambda pre, post: (pre, post)`.
        layers: names of the layers to tap, in the order wanted; all by default.

    Returns:
        A function of `(params, *args)` to `Tapped`, which may be jitted, mapped, differentiated.

    Raises:
        ValueError: if no layer is found, or one that is named; if the function does not return
            arrays, or is sharded by hand (`shard_map`).
        TypeError: if an argument is not an array.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pfn_optax.propagation import activation_taps
        >>> params = {"in": {"w": jnp.eye(2), "b": -jnp.ones(2)}, "out": {"w": jnp.ones((2, 1))}}
        >>> def predict(params, x):
        ...     h = jax.nn.relu(x @ params["in"]["w"] + params["in"]["b"])
        ...     return h @ params["out"]["w"]
        >>> x = jnp.asarray([[2.0, 0.0], [3.0, 1.0]])
        >>> taps = activation_taps(predict, params, x)
        >>> found = jax.jit(taps)(params, x)
        >>> print(taps.names, found.layers["in"]["dead_units"], found.output.tolist())
        ('in', 'out') 0.5 [[1.0], [2.0]]
    """
    plan = plan_taps(function, params, *args, layers=layers)
    return ActivationTaps(function, plan, None if layers is None else plan.names, statistics)
