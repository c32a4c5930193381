"""Where the copies of a unit share its weights: every sum over the units must count it once.

A unit may stand there several times, all of its weights copied, if each copy takes a share of what
the unit gives to the sums over units, and the shares sum to 1. The exponent of a share is 1 where a
leaf takes it and 0 where it is copied. A contraction with weights needs 1 in all. Shares of any
sign pass through what is linear, and what is not needs the exponent 0. There is no way to share
where units are summed without weights (softmax, a norm over the units, a mean: what divides by
their number does not know of the copies) or meet each other (queries and keys).

Reference: Zhang, Zhang, Luo, Xu, "Embedding principle of loss landscape of deep neural networks",
NeurIPS 2021.
"""

from collections.abc import Sequence
from fractions import Fraction

import jax.numpy as jnp

from pfn_optax.tracing import Equation
from pfn_optax.units.exponents import (
    ARITHMETIC,
    Exponents,
    Factors,
    Rule,
    Step,
    Symmetry,
    alike,
    invariant,
)
from pfn_optax.units.linear import LinearSystem, combined
from pfn_optax.units.terms import Dim


def _rule_of(equation: Equation) -> Rule:
    return _RULES.get(equation.primitive, _other)


def _contracted(step: Step) -> list[Factors]:
    """Exponents are added; a sum over units takes every share once."""
    if any(value.is_free for value in step.values):
        return step.free_results()
    kept, known = step.kept(), {}
    has_weights = not all(value.has_data for value in step.values)
    for (label, group), found in step.met((0, 1)).items():
        total = combined(*((expression, 1) for expression in found.values()))
        if label in kept:
            known[label, group] = total
        elif has_weights:
            step.exponents.require_equal(group, total, {LinearSystem.ONE: Fraction(1)})
        else:
            step.exponents.impossible.add(group)
    return step.results(known)


def _divided(step: Step) -> list[Factors]:
    """A share may be 0, and nothing is divided by it."""
    step.require_zero([1])
    return _contracted(step)


def _summed(step: Step) -> list[Factors]:
    _refuse_dropped(step)
    return alike(step)


def _largest(step: Step) -> list[Factors]:
    """Copies change no maximum."""
    return invariant(step)


def _other(step: Step) -> list[Factors]:
    _refuse_dropped(step)
    return invariant(step)


def _refuse_dropped(step: Step) -> None:
    kept = step.kept()
    step.exponents.impossible.update(
        group for label, group in step.met(range(len(step.values))) if label not in kept
    )


def _converted(step: Step) -> list[Factors]:
    is_rounded = not jnp.issubdtype(step.equation.params["new_dtype"], jnp.inexact)
    return invariant(step) if is_rounded else alike(step)


_NOT_LINEAR = "eq eq_to ne rem"

_RULES: dict[str, Rule] = {
    **ARITHMETIC,
    **dict.fromkeys(_NOT_LINEAR.split(), _other),
    **dict.fromkeys(("conv_general_dilated", "dot_general", "mul"), _contracted),
    "div": _divided,
    "reduce_sum": _summed,
    **dict.fromkeys((f"reduce_{kind}" for kind in ("and", "max", "min", "or")), _largest),
    "convert_element_type": _converted,
}

SHARES = Symmetry(
    rule_of=_rule_of,
    is_free=lambda value: value == 0,
    modulus=None,
    # Weights are shared as late as they can be, where the units are read.
    preferred=0,
)


def shared_by(exponents: Exponents, group: Dim, members: Sequence[int]) -> dict[int, bool] | None:
    """Which leaves share the weights of a unit among its copies.

    Args:
        exponents: the equations.
        group: the group.
        members: the unknowns of its slots.

    Returns:
        For each unknown whether its leaf takes shares; None if units cannot be copied.
    """
    if group in exponents.impossible:
        return None
    known = [number for number in exponents.order if number in set(members)]
    order = [*known, *(number for number in members if number not in exponents.order)]
    solution = exponents.system(group)
    for number in order:
        solution = solution.extended([{number: Fraction(1)}]) or solution
    values = {
        number: solution.reduced({number: Fraction(1)}).get(LinearSystem.ONE, Fraction(0))
        for number in order
    }
    if not {0, 1} >= set(values.values()):
        return None
    return {number: bool(value) for number, value in values.items()}
