"""How each primitive scales: what it asks of the exponents of its operands.

Factors add their exponents, summands must agree, sums over units need the exponent 0, and so does
what is not homogeneous (tanh, + 1). Zero and infinity scale as one likes: relu is max(x, 0).
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import jax.numpy as jnp

from pfn_optax.tracing import Constant, Equation
from pfn_optax.units.linear import ZERO, Expression, LinearSystem, combined
from pfn_optax.units.schemes import ELEMENTWISE, Scheme
from pfn_optax.units.terms import Dim, Term, dims, labels


class Scaling(NamedTuple):
    """How a value scales.

    Attributes:
        axes: for each axis the exponent of each group on it; 0 where none is given.
        is_free: whether all entries are zero or infinite.
        has_data: whether it depends on more than parameters and numbers.
    """

    axes: tuple[dict[Dim, Expression], ...]
    is_free: bool = False
    has_data: bool = False


@dataclass(eq=False, frozen=True)
class Exponents:
    """The equations between exponents, and what was seen on the way.

    Attributes:
        groups: the groups of units.
        systems: the equations, group by group.
        order: unknowns of the parameters in the order in which the data meets them.
        producers: those of axes that stay when the data meets them.
        readers: those of axes that are contracted with the data.
    """

    groups: frozenset[Dim]
    systems: defaultdict[Dim, LinearSystem] = field(
        default_factory=lambda: defaultdict(LinearSystem)
    )
    order: dict[int, None] = field(default_factory=dict)
    producers: set[int] = field(default_factory=set)
    readers: set[int] = field(default_factory=set)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def new_number(self) -> int:
        """Number of a new unknown."""
        return next(self._numbers)

    def new_unknown(self) -> Expression:
        """An exponent that nothing is known of."""
        return {self.new_number(): Fraction(1)}

    def groups_on(self, term: Term) -> list[Dim]:
        """The groups on an axis or a stretch of it."""
        return [dim for dim in dict.fromkeys(dims(term)) if dim in self.groups]

    def require_zero(self, group: Dim, expression: Expression) -> None:
        """Adds an equation."""
        self.systems[group].require_zero(expression)

    def require_equal(self, group: Dim, left: Expression, right: Expression) -> None:
        """Adds an equation."""
        if left is not right:
            self.require_zero(group, combined((left, 1), (right, -1)))


def agree(exponents: Exponents, values: Sequence[Scaling]) -> Scaling:
    """The scaling of values of one shape that must scale alike."""
    bound = [value for value in values if not value.is_free]
    for other in bound[1:]:
        for axis, other_axis in zip(bound[0].axes, other.axes, strict=True):
            for group in {**axis, **other_axis}:
                exponents.require_equal(group, axis.get(group, ZERO), other_axis.get(group, ZERO))
    has_data = any(value.has_data for value in values)
    return (bound or values)[0]._replace(has_data=has_data)


def scaled(
    exponents: Exponents, equation: Equation, scheme: Scheme, values: list[Scaling]
) -> list[Scaling]:
    """How the results of an equation scale."""
    step = _Step(exponents, equation, scheme, values)
    _note_meeting(step)
    results = _rule_of(equation)(step)
    has_data = any(value.has_data for value in values)
    return [result._replace(has_data=has_data) for result in results]


def _note_meeting(step: "_Step") -> None:
    """Notes which parameters meet the data here, and what becomes of their axes."""
    weights = [i for i, value in enumerate(step.values) if not value.has_data]
    if len(weights) == len(step.values):
        return
    kept = step.kept()
    for (label, _), found in step.met(weights).items():
        for expression in found.values():
            step.exponents.order.update(dict.fromkeys(expression))
            ends = step.exponents.producers if label in kept else step.exponents.readers
            ends.update(expression)


Met = dict[tuple[Dim, Dim], dict[int, Expression]]
"""For a dim of the scheme and a group on it, the exponents of the operands that have the dim."""


class _Step(NamedTuple):
    """One equation and its operands."""

    exponents: Exponents
    equation: Equation
    scheme: Scheme
    values: list[Scaling]

    def met(self, operands: Iterable[int]) -> Met:
        found: Met = defaultdict(dict)
        for i in operands:
            for term, axis in zip(self.scheme.inputs[i], self.values[i].axes, strict=True):
                for label in labels(term):
                    for group in self.exponents.groups_on(label):
                        found[label, group][i] = axis.get(group, ZERO)
        return found

    def kept(self) -> set[Dim]:
        """The dims of the scheme that the results have."""
        return {label for terms in self.scheme.outputs for term in terms for label in labels(term)}

    def bound(self, operands: Iterable[int]) -> list[int]:
        return [i for i in operands if not self.values[i].is_free]

    def require_zero(self, operands: Iterable[int]) -> None:
        for i in self.bound(operands):
            for axis in self.values[i].axes:
                for group, expression in axis.items():
                    self.exponents.require_zero(group, expression)

    def results(
        self,
        known: dict[tuple[Dim, Dim], Expression],
        otherwise: Callable[[Dim], Expression] = lambda label: ZERO,
    ) -> list[Scaling]:
        return [
            Scaling(tuple(self._axis(term, known, otherwise) for term in terms))
            for terms in self.scheme.outputs
        ]

    def _axis(
        self,
        term: Term,
        known: dict[tuple[Dim, Dim], Expression],
        otherwise: Callable[[Dim], Expression],
    ) -> dict[Dim, Expression]:
        axis: dict[Dim, Expression] = {}
        for label in labels(term):
            for group in self.exponents.groups_on(label):
                expression = known.get((label, group))
                if expression is None:
                    expression = otherwise(label)
                # Stretches of one group on one axis share an exponent.
                self.exponents.require_equal(group, axis.setdefault(group, expression), expression)
        return axis

    def free_results(self) -> list[Scaling]:
        return [Scaling(tuple({} for _ in terms), is_free=True) for terms in self.scheme.outputs]


def _alike(step: _Step, *, first: int = 0, last: int | None = None) -> list[Scaling]:
    """Operands that must scale as the result does; those outside of first:last are mere numbers."""
    every = range(len(step.values))
    operands = every[first:last]
    step.require_zero(i for i in every if i not in operands)
    bound = step.bound(operands)
    if not bound:
        return step.free_results()
    known = {}
    is_elementwise = step.equation.primitive in ELEMENTWISE
    for (label, group), found in step.met(bound).items():
        expressions = list(found.values())
        if is_elementwise and len(found) < len(bound):
            expressions.append(ZERO)  # an operand that is broadcast along the axis
        for expression in expressions:
            step.exponents.require_equal(group, expressions[0], expression)
        known[label, group] = expressions[0]
    # Where only zeros stand, as one likes.
    free = [i for i in operands if i not in bound]
    loose = {label for i in free for term in step.scheme.inputs[i] for label in labels(term)}
    return step.results(
        known, lambda label: step.exponents.new_unknown() if label in loose else ZERO
    )


def _first_alike(step: _Step) -> list[Scaling]:
    """The other operands are positions."""
    return _alike(step, last=1)


def _cases_alike(step: _Step) -> list[Scaling]:
    return _alike(step, first=1)


def _updated(step: _Step) -> list[Scaling]:
    """An operand, an update and positions, in either of two orders."""
    if step.equation.primitive == "dynamic_update_slice":
        return _alike(step, last=2)
    swapped = [0, 2, 1]
    return _alike(
        step._replace(
            scheme=step.scheme._replace(inputs=tuple(step.scheme.inputs[i] for i in swapped)),
            values=[step.values[i] for i in swapped],
        ),
        last=2,
    )


def _padded(step: _Step) -> list[Scaling]:
    if not step.values[1].is_free:
        return _invariant(step)
    known = {key: found[0] for key, found in step.met(step.bound([0])).items()}
    if step.values[0].is_free:
        return step.free_results()
    return step.results(known, lambda label: step.exponents.new_unknown())


def _reduced(step: _Step) -> list[Scaling]:
    [result] = _alike(step)
    if not result.is_free:
        _require_dropped_zero(step, {key: found[0] for key, found in step.met([0]).items()})
    return [result]


def _require_dropped_zero(step: _Step, known: dict[tuple[Dim, Dim], Expression]) -> None:
    kept = step.kept()
    for (label, group), expression in known.items():
        if label not in kept:
            step.exponents.require_zero(group, expression)


def _multiplied(step: _Step, signs: tuple[int, int] = (1, 1)) -> list[Scaling]:
    if any(value.is_free for value in step.values):
        return step.free_results()
    known = {}
    for key, found in step.met((0, 1)).items():
        known[key] = combined(*((expression, signs[i]) for i, expression in found.items()))
    _require_dropped_zero(step, known)
    return step.results(known)


def _divided(step: _Step) -> list[Scaling]:
    return _multiplied(step, (1, -1))


def _power(degree: Fraction | int) -> Callable[[_Step], list[Scaling]]:
    def rule(step: _Step) -> list[Scaling]:
        if step.values[0].is_free and degree:
            return step.free_results()
        met = step.met([0])
        return step.results({key: combined((found[0], degree)) for key, found in met.items()})

    return rule


def _compared(step: _Step) -> list[Scaling]:
    """Operands that must scale alike, and a result that does not scale."""
    _alike(step)
    return step.results({})


def _sign(step: _Step) -> list[Scaling]:
    return step.results({})


def _invariant(step: _Step) -> list[Scaling]:
    step.require_zero(range(len(step.values)))
    return step.results({})


def _each(step: _Step) -> list[Scaling]:
    """Every operand has its own result."""
    results = []
    for i, value in enumerate(step.values):
        known = {key: found[i] for key, found in step.met([i]).items()}
        own = step.free_results() if value.is_free else step.results(known)
        results.append(own[i])
    return results


def _rule_of(equation: Equation) -> Callable[[_Step], list[Scaling]]:
    name, params = equation.primitive, equation.params
    if name == "integer_pow":
        return _power(params["y"])
    if name == "pow" and isinstance(equation.inputs[1], Constant) and not equation.inputs[1].shape:
        return _power(Fraction(float(equation.inputs[1].value)))
    if name == "convert_element_type":
        source, target = equation.inputs[0].dtype, params["new_dtype"]
        if jnp.issubdtype(target, jnp.bool_):
            return _sign
        is_rounded = jnp.issubdtype(source, jnp.inexact) and jnp.issubdtype(target, jnp.integer)
        return _invariant if is_rounded else _alike
    return _RULES.get(name, _invariant)


_ALIKE = """
abs add add_any broadcast_in_dim clamp complex concatenate conj copy copy_p cummax cummin cumsum
imag max min name neg pcast pvary real reduce_precision reduce_window_max reduce_window_min
reduce_window_sum rem reshape rev sharding_constraint slice split squeeze stack stop_gradient sub
tile transpose unstack
"""
_UPDATED = "dynamic_update_slice scatter scatter-add scatter-max scatter-min scatter-sub"
_COMPARED = "atan2 eq eq_to ge gt le le_to lt lt_to ne"
_EACH = "device_put optimization_barrier pmax pmean pmin psum psum_invariant shard sort unshard"

_RULES: dict[str, Callable[[_Step], list[Scaling]]] = {
    **dict.fromkeys(_ALIKE.split(), _alike),
    **dict.fromkeys(("dynamic_slice", "gather"), _first_alike),
    "select_n": _cases_alike,
    **dict.fromkeys(_UPDATED.split(), _updated),
    "pad": _padded,
    **dict.fromkeys(("reduce_max", "reduce_min", "reduce_sum"), _reduced),
    **dict.fromkeys(("conv_general_dilated", "dot_general", "mul"), _multiplied),
    "div": _divided,
    "square": _power(2),
    "sqrt": _power(Fraction(1, 2)),
    "rsqrt": _power(Fraction(-1, 2)),
    "cbrt": _power(Fraction(1, 3)),
    **dict.fromkeys(_COMPARED.split(), _compared),
    **dict.fromkeys(("argmax", "argmin", "is_finite", "sign"), _sign),
    **dict.fromkeys(_EACH.split(), _each),
}
