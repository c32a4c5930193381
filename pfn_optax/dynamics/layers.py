"""The spectrum of a stack of layers, whose widths may differ."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from pfn_optax.dynamics import sweep
from pfn_optax.dynamics.basis import random_basis
from pfn_optax.dynamics.spectrum import LyapunovSpectrum
from pfn_optax.dynamics.status import raise_if_nonfinite
from pfn_optax.dynamics.steps import require_floating, require_state
from pfn_optax.dynamics.sweep import Columns
from pfn_optax.dynamics.tangent import at_least_single


def layer_spectrum(
    layers: Sequence[Callable[[Any], Any]],
    inputs: Any,
    *,
    num_exponents: int | None = None,
    key: jax.Array | None = None,
) -> LyapunovSpectrum:
    r"""Measures the Lyapunov exponents of a stack of layers at one input, per layer.

    As `lyapunov_spectrum`, with layers for steps: their Jacobians may be rectangular, and each of
    the k columns goes through all of them, so k is at most the narrowest width. The curve over the
    depth tells where signals vanish or explode. A stack of equal layers is better run as
    `lyapunov_spectrum(lambda x, params: layer(params, x), x, inputs=stacked_params)`, which is
    compiled once and not once per layer.

    Args:
        layers: each input -> output, trees of real floating leaves; the output of one is the input
            of the next.
        inputs: of the first layer, one example; map over more by `jax.vmap`.
        num_exponents: how many, k; by default the narrowest width.
        key: of the random columns at the input, `jax.random.key(0)` by default.

    Returns:
        The exponents in nats per layer. `running` has a point per layer, `state` is the output and
        `basis` its directions; the standard error is that of layers which are alike.

    Raises:
        ValueError: if there is no layer, what one takes or returns is not real and floating, or k
            is more than the narrowest width.
        DynamicsError: outside jit, if an output or derivative is not finite; the layer is named by
            its number.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.dynamics import layer_spectrum
        >>> layers = [lambda x: jnp.stack([2 * x[0], x[1] / 2, x[0]]), lambda x: x[:2] * 3]
        >>> found = layer_spectrum(layers, jnp.ones(2))
        >>> print(jnp.exp(2 * found.exponents.sum()).round(1))  # areas: by 1.1, then by 9 or less
        9.0

    Reference:
        Storm, Linander, Bec, Gustavsson & Mehlig 2024, "Finite-time Lyapunov exponents of deep
        neural networks".
    """
    state = require_state(inputs)
    narrowest = min(_widths(layers, state))
    k = narrowest if num_exponents is None else num_exponents
    if not 1 <= k <= narrowest:
        raise ValueError(
            f"num_exponents must be in 1, ..., {narrowest}, the narrowest width; got {k}."
        )

    @jax.jit  # one program, also where the caller runs eagerly
    def measured(state, key):
        return _pushed(layers, state, k, jax.random.key(0) if key is None else key)

    found = measured(state, key)
    raise_if_nonfinite(found.first_nonfinite)
    return found


def _pushed(
    layers: Sequence[Callable[[Any], Any]], state: Any, k: int, key: jax.Array
) -> LyapunovSpectrum:
    """Pushes k random columns through the layers."""
    vector, unravel = ravel_pytree(state)
    dtype = at_least_single(vector.dtype)
    columns, growth = Columns.start(random_basis(key, vector.size, k, dtype)), []
    for number, layer in enumerate(layers):

        def along(column, layer=layer, state=state, unravel=unravel, dtype=vector.dtype):
            return jax.jvp(layer, (state,), (unravel(column.astype(dtype)),))

        state, pushed = jax.vmap(along, in_axes=1, out_axes=(None, 0))(columns.basis)
        vector, unravel = ravel_pytree(state)
        basis = jax.vmap(lambda tree: ravel_pytree(tree)[0], out_axes=1)(pushed).astype(dtype)
        columns = columns.moved(basis, vector, jnp.asarray(number, jnp.int32))
        columns, stretched = columns.orthonormal()
        growth.append(stretched)
    plan = sweep.make_plan(len(layers), 0, 1, len(layers), 1.0)
    return LyapunovSpectrum(
        *sweep.statistics(jnp.stack(growth), plan),
        state=state,
        basis=jax.vmap(lambda row: unravel(row.astype(vector.dtype)), in_axes=1)(columns.basis),
        status=columns.status,
        first_nonfinite=columns.first_nonfinite,
    )


def _widths(layers: Sequence[Callable[[Any], Any]], state: Any) -> list[int]:
    """Entries of the input and of every output."""
    if not layers:
        raise ValueError("give at least one layer.")
    shapes = [jax.eval_shape(lambda: state)]
    for layer in layers:
        shapes.append(jax.eval_shape(layer, shapes[-1]))
        require_floating(shapes[-1])
    return [sum(leaf.size for leaf in jax.tree.leaves(shape)) for shape in shapes]
