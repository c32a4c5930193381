"""Which factors on the parameters leave the function as it is: the exponents, solved.

A unit whose incoming weights are multiplied by s > 0 and whose outgoing weights by 1/s computes
the same function where everything between is homogeneous (`homogeneity`), and so does one whose
weights are flipped on both sides where everything between is odd (`parity`). Every leaf has an
unknown exponent on each of its axes in a group, and every operation (`exponents`) ties those of
what it reads to those of what it computes.

Reference: Neyshabur, Salakhutdinov, Srebro, "Path-SGD", NeurIPS 2015.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction

import jax.numpy as jnp
import numpy as np

from pfn_optax.paths import Path
from pfn_optax.tracing import Constant, Equation, Program, interpret
from pfn_optax.units.exponents import Exponents, Factors, Symmetry, agree, passed
from pfn_optax.units.inference import Inference
from pfn_optax.units.linear import Expression, LinearSystem
from pfn_optax.units.terms import Dim, dims

Slot = tuple[Path, int, Dim]
"""A leaf, one of its axes and a group of units on it."""


def slots_of(inference: Inference) -> Iterator[Slot]:
    """The slots of all leaves."""
    for path, variable in inference.leaves.items():
        for axis, term in enumerate(inference.axes[id(variable)]):
            for dim in dict.fromkeys(dims(term)):
                if not dim.is_pinned:
                    yield path, axis, dim


def solve(inference: Inference, symmetry: Symmetry) -> tuple[Exponents, dict[Slot, int]]:
    """Collects the equations between the exponents.

    Args:
        inference: the axes of all values.
        symmetry: the kind of factors.

    Returns:
        The equations, and the number of the unknown of each slot.
    """
    slots = list(slots_of(inference))
    exponents = Exponents(symmetry, frozenset(group for _, _, group in slots))
    unknowns = {slot: exponents.new_number() for slot in slots}
    paths = {id(variable): path for path, variable in inference.leaves.items()}
    inputs = []
    for variable in inference.program.inputs:
        path = paths.get(id(variable))
        axes: list[dict[Dim, Expression]] = [{} for _ in variable.shape]
        for (leaf, axis, group), number in unknowns.items():
            if leaf == path:
                axes[axis][group] = {number: Fraction(1)}
                if not jnp.issubdtype(variable.dtype, jnp.inexact):
                    exponents.require_zero(group, axes[axis][group])
        inputs.append(Factors(tuple(axes), has_data=path is None))
    _run(inference, exponents, inference.program, inputs)
    return exponents, unknowns


def _run(
    inference: Inference, exponents: Exponents, program: Program, inputs: Sequence[Factors]
) -> list[Factors]:
    def apply(equation: Equation, values: list[Factors]) -> Sequence[Factors]:
        if equation.primitive == "loop":
            return _loop(inference, exponents, equation, values)
        if equation.primitive == "branch":
            results = [_run(inference, exponents, body, values[1:]) for body in equation.bodies]
            return [agree(exponents, branches) for branches in zip(*results, strict=True)]
        return passed(exponents, equation, inference.schemes[id(equation)], values)

    return interpret(
        program,
        inputs,
        constant=lambda constant: _constant_factors(exponents.symmetry, constant),
        apply=apply,
    )


def _constant_factors(symmetry: Symmetry, constant: Constant) -> Factors:
    axes: tuple[dict[Dim, Expression], ...] = tuple({} for _ in constant.shape)
    try:
        is_free = bool(symmetry.is_free(np.asarray(constant.value)).all())
    except TypeError:  # a random key, or a value of an outer trace
        is_free = False
    return Factors(axes, is_free, has_data=bool(constant.shape))


def _loop(
    inference: Inference, exponents: Exponents, equation: Equation, values: list[Factors]
) -> list[Factors]:
    """The same exponents in every round; a carry that starts from zero takes any."""
    body, *conditions = equation.bodies
    first, last = equation.num_consts, equation.num_consts + equation.num_carry
    consts, initial, slices = values[:first], values[first:last], values[last:]
    carry = []
    for variable in equation.outputs[: len(initial)]:
        axes = tuple(
            {group: exponents.new_unknown() for group in exponents.groups_on(axis)}
            for axis in inference.axes[id(variable)]
        )
        carry.append(Factors(axes, has_data=True))
    for condition in conditions:
        _run(inference, exponents, condition, [*consts, *carry])
    inner = [value._replace(axes=value.axes[1:]) for value in slices]
    results = _run(inference, exponents, body, [*consts, *carry, *inner])
    for same in zip(carry, initial, results[: len(carry)], strict=True):
        agree(exponents, same)
    stacked = [value._replace(axes=({}, *value.axes)) for value in results[len(carry) :]]
    return [*carry, *stacked]


def exponents_of(
    exponents: Exponents, group: Dim, members: Sequence[int]
) -> dict[int, Fraction] | None:
    """One symmetry of a group, of those that leave the function as it is.

    Whatever reads the units has the exponent -1; where the units are read by no parameter (queries
    and keys), the first that produces them has +1. Of several such symmetries the one with the
    preferred exponent wherever it may be, in the order in which the data meets the parameters.

    Args:
        exponents: the equations.
        group: the group.
        members: the unknowns of its slots.

    Returns:
        The exponent of each unknown, the first that is not zero +1 or -1; None if there is no such
        symmetry.
    """
    known = [number for number in exponents.order if number in set(members)]
    order = [*known, *(number for number in members if number not in exponents.order)]
    readers = [number for number in order if number in exponents.readers]

    def equation(number: int, value: int) -> Expression:
        return {number: Fraction(1), LinearSystem.ONE: Fraction(-value)}

    attempts = (
        [[equation(number, -1) for number in readers]]
        if readers
        else [[equation(number, 1)] for number in order]
    )
    system = exponents.system(group)
    solution = next(filter(None, (system.extended(attempt) for attempt in attempts)), None)
    if solution is None:
        return None
    for number in order:
        preferred = equation(number, exponents.symmetry.preferred)
        solution = solution.extended([preferred]) or solution
    values = {
        number: solution.reduced({number: Fraction(1)}).get(LinearSystem.ONE, Fraction(0))
        for number in order
    }
    unit = abs(next(value for value in values.values() if value))
    return {number: value / unit for number, value in values.items()}
