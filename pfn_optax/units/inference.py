"""Which axes of a traced function's values are permuted together: the schemes, solved."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pfn_optax.paths import Path
from pfn_optax.tracing import Constant, Equation, Program, Traced, Variable, interpret
from pfn_optax.units.schemes import Axes, Scheme, pinned_scheme, scheme_of
from pfn_optax.units.terms import Dim, concatenation, dims, pin, pinned, stretches, unify

# The argument of the traced function that holds the parameters.
_PARAMS = "0"


@dataclass(eq=False, frozen=True)
class Inference:
    """What is known of the axes.

    Attributes:
        program: the program without what its outputs do not depend on.
        leaves: parameters, by path within params.
        axes: terms for the axes of each variable, by `id`; constants have none of their own.
        schemes: scheme of each equation that is neither loop nor branch, by `id`.
        unknown: equations whose primitive is not known, and the dims that were pinned for them.
    """

    program: Program
    leaves: dict[Path, Variable]
    axes: dict[int, Axes] = field(default_factory=dict)
    schemes: dict[int, Scheme] = field(default_factory=dict)
    unknown: list[tuple[Equation, tuple[Dim, ...]]] = field(default_factory=list)


def infer(traced: Traced) -> Inference:
    """Solves the axes of a traced function whose first argument are the parameters.

    The axes of the other arguments and of the outputs are pinned, those of array constants where
    their entries differ.
    """
    program = _without_dead_code(traced.program)
    read = {id(v) for e in program.equations for v in e.inputs} | set(map(id, program.outputs))
    leaves = {
        path[1:]: variable
        for path, variable in zip(traced.paths, program.inputs, strict=True)
        if path[0] == _PARAMS and id(variable) in read
    }
    found = Inference(program, leaves)
    of_params = set(map(id, leaves.values()))
    inputs = [
        tuple(map(Dim if id(variable) in of_params else pinned, variable.shape))
        for variable in program.inputs
    ]
    for axes in _run(found, program, inputs):
        for axis in axes:
            pin(axis)
    _settle(found.axes.values())
    return found


def _without_dead_code(program: Program) -> Program:
    live, equations = set(map(id, program.outputs)), []
    for equation in reversed(program.equations):
        if not live.isdisjoint(map(id, equation.outputs)):
            equations.append(equation)
            live.update(map(id, equation.inputs))
    return Program(program.inputs, tuple(reversed(equations)), program.outputs)


def _run(found: Inference, program: Program, inputs: Sequence[Axes]) -> list[Axes]:
    def record(variables: Iterable[Variable], values: Sequence[Axes]) -> Sequence[Axes]:
        found.axes.update(zip(map(id, variables), values, strict=True))
        return values

    return interpret(
        program,
        record(program.inputs, inputs),
        constant=_constant_axes,
        apply=lambda equation, values: record(equation.outputs, _apply(found, equation, values)),
    )


def _apply(found: Inference, equation: Equation, values: list[Axes]) -> Sequence[Axes]:
    if equation.primitive == "loop":
        return _loop(found, equation, values)
    if equation.primitive == "branch":
        results = [_run(found, body, values[1:]) for body in equation.bodies]
        for other in results[1:]:
            _unify_all(results[0], other)
        return results[0]
    scheme = scheme_of(equation)
    if scheme is None:
        free = tuple(d for axes in values for axis in axes for d in dims(axis) if not d.is_pinned)
        found.unknown.append((equation, free))
        scheme = pinned_scheme(equation)
    found.schemes[id(equation)] = scheme
    _unify_all(scheme.inputs, values)
    return scheme.outputs


def _loop(found: Inference, equation: Equation, values: list[Axes]) -> list[Axes]:
    """The same units in every round."""
    body, *conditions = equation.bodies
    first, last = equation.num_consts, equation.num_consts + equation.num_carry
    consts, carry, slices = values[:first], values[first:last], values[last:]
    for axes in slices:
        pin(axes[0])
    for condition in conditions:
        _run(found, condition, [*consts, *carry])
    results = _run(found, body, [*consts, *carry, *(axes[1:] for axes in slices)])
    _unify_all(carry, results[: len(carry)])
    stacked = zip(equation.outputs[len(carry) :], results[len(carry) :], strict=True)
    return [*carry, *((pinned(variable.shape[0]), *axes) for variable, axes in stacked)]


def _unify_all(left: Sequence[Axes], right: Sequence[Axes]) -> None:
    for some, others in zip(left, right, strict=True):
        for one, other in zip(some, others, strict=True):
            unify(one, other)


def _constant_axes(constant: Constant) -> Axes:
    """Along an axis where all entries are alike, any order will do."""
    if not constant.shape:
        return ()
    try:
        value = np.asarray(constant.value)
    except TypeError:  # a random key, or a value of an outer trace
        return tuple(map(pinned, constant.shape))
    return tuple(
        Dim(n) if n and (value == value.take([0], k)).all() else pinned(n)
        for k, n in enumerate(constant.shape)
    )


def _settle(values: Iterable[Axes]) -> None:
    """Pins what cannot be written as stretches, until nothing more is pinned."""
    axes = [axis for value in values for axis in value]
    everything = concatenation(axes)
    num_pinned = -1
    while num_pinned != (num_pinned := sum(dim.is_pinned for dim in dims(everything))):
        for axis in axes:
            stretches(axis)
