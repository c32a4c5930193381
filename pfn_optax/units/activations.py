"""The activations of every group of units, read off any function as it runs."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pfn_optax.tracing import Constant, Equation, Traced, Variable, interpret, trace
from pfn_optax.units.axes import Axes, axes_of


def unit_activations(
    function: Callable[..., Any], params: Any, *args: Any
) -> Callable[..., dict[str, jax.Array]]:
    """Makes a function that returns what the units of each group compute.

    Of the values that depend on data, a group's activations are those that the last operation reads
    that ends it: a matrix product that sums over the units, so that they are taken after the
    nonlinearity. All other axes (the batch, pixels, time) are rows; over the units of other groups,
    which may stand in another order in another network, the mean is taken.

    Args:
        function: `function(params, *args)`, as given to `unit_spec`.
        params: parameters; only shapes are read.
        *args: its other arguments, likewise.

    Returns:
        A function of `(params, *args)` to f[rows, size] by group, which may be jitted. Groups that
        live inside of a loop only, or in what one device sees, are left out.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pfn_optax.units import unit_activations
        >>> params = {"in": jnp.asarray([[1.0, -1.0]]), "out": jnp.ones((2, 1))}
        >>> def predict(params, x):
        ...     return jax.nn.relu(x @ params["in"]) @ params["out"]
        >>> x = jnp.asarray([[1.0], [-2.0]])
        >>> unit_activations(predict, params, x)(params, x)["in"].tolist()
        [[1.0, 0.0], [0.0, 2.0]]
    """
    traced = trace(function, params, *args)
    axes = axes_of(traced)
    sources = _sources(traced, axes)

    def record(*arguments: Any) -> dict[str, jax.Array]:
        values: dict[int, jax.Array] = {}

        def apply(equation: Equation, operands: list[Any]) -> list[Any]:
            # What a device's own view of an array would feed is not known, and not asked for.
            if equation.run is None or any(operand is None for operand in operands):
                return [None] * len(equation.outputs)
            results = list(equation.run(*operands))
            values.update(zip(map(id, equation.outputs), results, strict=True))
            return results

        interpret(
            traced.program, jax.tree.leaves(arguments), constant=lambda c: c.value, apply=apply
        )
        return {
            name: _rows(values[id(variable)], axes, variable, name)
            for name, variable in sources.items()
            if id(variable) in values
        }

    return record


def _sources(traced: Traced, axes: Axes) -> dict[str, Variable]:
    """For each group the value that the last operation reads that ends it."""
    found: dict[str, Variable] = {}

    def has_data(equation: Equation, depends: list[bool]) -> list[bool]:
        after = {name for output in equation.outputs for name in _groups(axes, output)}
        for variable, depend in zip(equation.inputs, depends, strict=True):
            if depend and not isinstance(variable, Constant):
                for name in _groups(axes, variable) - after:
                    found[name] = variable
        return [any(depends)] * len(equation.outputs)

    inputs = [path[0] != "0" for path in traced.paths]
    interpret(traced.program, inputs, constant=lambda _: False, apply=has_data)
    return found


def _groups(axes: Axes, variable: Variable) -> set[str]:
    segments = (segment for axis in axes.of(variable) for segment in axis)
    return {name for segment in segments for name in segment.groups if name is not None}


def _rows(value: jax.Array, axes: Axes, variable: Variable, name: str) -> jax.Array:
    """The first stretch of a value that a group indexes, as f[rows, size]."""
    for axis, segments in enumerate(axes.of(variable)):
        start = 0
        for segment in segments:
            if name in segment.groups:
                stretch = jax.lax.slice_in_dim(value, start, start + segment.size, axis=axis)
                place = axis + segment.groups.index(name)
                shape = (*value.shape[:axis], *segment.sizes, *value.shape[axis + 1 :])
                others = _other_units(axes, variable, axis, segment.groups, place)
                return _flat(stretch.reshape(shape), place, others)
            start += segment.size
    raise AssertionError(f"{name} is not on {variable}")


def _other_units(
    axes: Axes, variable: Variable, axis: int, groups: tuple[str | None, ...], place: int
) -> tuple[int, ...]:
    """The axes, after reshaping, that run over units of other groups."""
    found = [axis + k for k, group in enumerate(groups) if group is not None and axis + k != place]
    for other, segments in enumerate(axes.of(variable)):
        if other != axis and any(group for segment in segments for group in segment.groups):
            found.append(other if other < axis else other + len(groups) - 1)
    return tuple(found)


def _flat(value: jax.Array, place: int, others: tuple[int, ...]) -> jax.Array:
    value = jnp.mean(value, axis=others, keepdims=True)
    rows = math.prod(value.shape) // value.shape[place]
    return jnp.moveaxis(value, place, -1).reshape(rows, value.shape[place])
