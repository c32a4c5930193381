"""What each kind of operation asks of the exponents of its operands, for factors of any kind.

A factor goes with every unit of a group: a positive scale (see `homogeneity`) or a sign (see
`parity`), to a power, the exponent, that each leaf and each value has of its own. Factors of a
product add their exponents, summands must agree, and sums over units need the exponent 0, and so
does what keeps no such factor (exp, + 1).
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from pfn_optax.tracing import Equation
from pfn_optax.units.linear import ZERO, Expression, LinearSystem, combined
from pfn_optax.units.schemes import ELEMENTWISE, Scheme
from pfn_optax.units.terms import Dim, Term, dims, labels


class Factors(NamedTuple):
    """The exponents of a value.

    Attributes:
        axes: for each axis the exponent of each group on it; 0 where none is given.
        is_free: whether any factor leaves it as it is: all entries are zero (or infinite).
        has_data: whether it depends on more than parameters and numbers.
    """

    axes: tuple[dict[Dim, Expression], ...]
    is_free: bool = False
    has_data: bool = False


class Symmetry(NamedTuple):
    """A kind of factors.

    Attributes:
        rule_of: what each equation asks of the exponents.
        is_free: whether any factor leaves a number as it is.
        modulus: what the exponents count by: 2 for signs; None for any rational numbers.
        preferred: the exponent to choose for a leaf that may have several.
    """

    rule_of: "Callable[[Equation], Rule]"
    is_free: Callable[[np.ndarray], np.ndarray]
    modulus: int | None
    preferred: int


@dataclass(eq=False, frozen=True)
class Exponents:
    """The equations between exponents, and what was seen on the way.

    Attributes:
        symmetry: the kind of factors.
        groups: the groups of units.
        systems: the equations, group by group.
        order: unknowns of the parameters in the order in which the data meets them.
        producers: those of axes that stay when the data meets them.
        readers: those of axes that are contracted with the data.
        impossible: groups whose equations contradict each other, or that have been ruled out.
    """

    symmetry: Symmetry
    groups: frozenset[Dim]
    systems: dict[Dim, LinearSystem] = field(default_factory=dict)
    order: dict[int, None] = field(default_factory=dict)
    producers: set[int] = field(default_factory=set)
    readers: set[int] = field(default_factory=set)
    impossible: set[Dim] = field(default_factory=set)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def new_number(self) -> int:
        """Number of a new unknown."""
        return next(self._numbers)

    def new_unknown(self) -> Expression:
        """An exponent that nothing is known of."""
        return {self.new_number(): Fraction(1)}

    def system(self, group: Dim) -> LinearSystem:
        """The equations of a group."""
        return self.systems.setdefault(group, LinearSystem(modulus=self.symmetry.modulus))

    def groups_on(self, term: Term) -> list[Dim]:
        """The groups on an axis or a stretch of it."""
        return [dim for dim in dict.fromkeys(dims(term)) if dim in self.groups]

    def require_zero(self, group: Dim, expression: Expression) -> None:
        """Adds an equation."""
        try:
            self.system(group).require_zero(expression)
        except ValueError:
            self.impossible.add(group)

    def require_equal(self, group: Dim, left: Expression, right: Expression) -> None:
        """Adds an equation."""
        if left is not right:
            self.require_zero(group, combined((left, 1), (right, -1)))


def agree(exponents: Exponents, values: Sequence[Factors]) -> Factors:
    """The factors of values of one shape that must have the same."""
    bound = [value for value in values if not value.is_free]
    for other in bound[1:]:
        for axis, other_axis in zip(bound[0].axes, other.axes, strict=True):
            for group in {**axis, **other_axis}:
                exponents.require_equal(group, axis.get(group, ZERO), other_axis.get(group, ZERO))
    has_data = any(value.has_data for value in values)
    return (bound or values)[0]._replace(has_data=has_data)


def passed(
    exponents: Exponents, equation: Equation, scheme: Scheme, values: list[Factors]
) -> list[Factors]:
    """The factors of the results of an equation."""
    step = Step(exponents, equation, scheme, values)
    _note_meeting(step)
    results = exponents.symmetry.rule_of(equation)(step)
    has_data = any(value.has_data for value in values)
    return [result._replace(has_data=has_data) for result in results]


def _note_meeting(step: "Step") -> None:
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


class Step(NamedTuple):
    """One equation and its operands.

    Attributes:
        exponents: the equations between exponents so far.
        equation: the equation.
        scheme: its axes.
        values: the factors of its operands.
    """

    exponents: Exponents
    equation: Equation
    scheme: Scheme
    values: list[Factors]

    def met(self, operands: Iterable[int]) -> Met:
        """For each group on a dim of the scheme the exponents of some operands."""
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
        """Those of the operands on which a factor shows."""
        return [i for i in operands if not self.values[i].is_free]

    def require_zero(self, operands: Iterable[int]) -> None:
        """Lets no factor reach some operands."""
        for i in self.bound(operands):
            for axis in self.values[i].axes:
                for group, expression in axis.items():
                    self.exponents.require_zero(group, expression)

    def results(
        self,
        known: dict[tuple[Dim, Dim], Expression],
        otherwise: Callable[[Dim], Expression] = lambda label: ZERO,
    ) -> list[Factors]:
        """Results with known exponents on their dims."""
        return [
            Factors(tuple(self._axis(term, known, otherwise) for term in terms))
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

    def free_results(self) -> list[Factors]:
        """Results that any factor leaves as they are."""
        return [Factors(tuple({} for _ in terms), is_free=True) for terms in self.scheme.outputs]


def alike(step: Step, *, first: int = 0, last: int | None = None) -> list[Factors]:
    """Operands with the factors of the result; those outside of first:last are mere numbers."""
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
    free = [i for i in operands if i not in bound and not is_elementwise]
    loose = {label for i in free for term in step.scheme.inputs[i] for label in labels(term)}
    return step.results(
        known, lambda label: step.exponents.new_unknown() if label in loose else ZERO
    )


def first_alike(step: Step) -> list[Factors]:
    """The other operands are positions."""
    return alike(step, last=1)


def cases_alike(step: Step) -> list[Factors]:
    """The first operand says which."""
    return alike(step, first=1)


def updated(step: Step) -> list[Factors]:
    """An operand, an update and positions, in either of two orders."""
    if step.equation.primitive == "dynamic_update_slice":
        return alike(step, last=2)
    swapped = [0, 2, 1]
    return alike(
        step._replace(
            scheme=step.scheme._replace(inputs=tuple(step.scheme.inputs[i] for i in swapped)),
            values=[step.values[i] for i in swapped],
        ),
        last=2,
    )


def padded(step: Step) -> list[Factors]:
    """What stands around the operand must be free."""
    if not step.values[1].is_free:
        return invariant(step)
    known = {key: found[0] for key, found in step.met(step.bound([0])).items()}
    if step.values[0].is_free:
        return step.free_results()
    return step.results(known, lambda label: step.exponents.new_unknown())


def reduced(step: Step) -> list[Factors]:
    """What is taken together across units has no factors."""
    [result] = alike(step)
    if not result.is_free:
        _require_dropped_zero(step, {key: found[0] for key, found in step.met([0]).items()})
    return [result]


def _require_dropped_zero(step: Step, known: dict[tuple[Dim, Dim], Expression]) -> None:
    kept = step.kept()
    for (label, group), expression in known.items():
        if label not in kept:
            step.exponents.require_zero(group, expression)


def multiplied(step: Step, signs: tuple[int, int] = (1, 1)) -> list[Factors]:
    """Exponents are added."""
    if any(value.is_free for value in step.values):
        return step.free_results()
    known = {}
    for key, found in step.met((0, 1)).items():
        known[key] = combined(*((expression, signs[i]) for i, expression in found.items()))
    _require_dropped_zero(step, known)
    return step.results(known)


def divided(step: Step) -> list[Factors]:
    """Exponents are subtracted."""
    if step.values[1].is_free:  # a number divided by zero keeps its sign
        return invariant(step)
    return multiplied(step, (1, -1))


def power(degree: Fraction | int) -> "Rule":
    """Exponents are multiplied by the degree."""

    def rule(step: Step) -> list[Factors]:
        if step.values[0].is_free and degree > 0:
            return step.free_results()
        met = step.met([0])
        return step.results({key: combined((found[0], degree)) for key, found in met.items()})

    return rule


def compared(step: Step) -> list[Factors]:
    """Operands with the same factors, and a result without any."""
    alike(step)
    return step.results({})


def unchanged(step: Step) -> list[Factors]:
    """A result that the factors of the operand do not reach."""
    return step.results({})


def invariant(step: Step) -> list[Factors]:
    """Operands that may have no factors."""
    step.require_zero(range(len(step.values)))
    return step.results({})


def each(step: Step) -> list[Factors]:
    """Every operand has its own result."""
    results = []
    for i, value in enumerate(step.values):
        known = {key: found[i] for key, found in step.met([i]).items()}
        own = step.free_results() if value.is_free else step.results(known)
        results.append(own[i])
    return results


def converted(step: Step) -> list[Factors]:
    """A dtype to another."""
    source, target = step.equation.inputs[0].dtype, step.equation.params["new_dtype"]
    if jnp.issubdtype(target, jnp.bool_):
        return unchanged(step)  # whether it is zero
    is_rounded = jnp.issubdtype(source, jnp.inexact) and jnp.issubdtype(target, jnp.integer)
    return invariant(step) if is_rounded else alike(step)


Rule = Callable[[Step], list[Factors]]
"""From one equation and the factors of its operands to those of its results."""

_LINEAR = """
add add_any broadcast_in_dim complex concatenate conj copy copy_p cumsum imag name neg pcast pvary
real reduce_precision reduce_window_sum rem reshape rev sharding_constraint slice split squeeze
stack stop_gradient sub tile transpose unstack
"""
_EACH = "device_put optimization_barrier pmean psum psum_invariant shard unshard"

# What any kind of factors passes through.
ARITHMETIC: dict[str, Rule] = {
    **dict.fromkeys(_LINEAR.split(), alike),
    **dict.fromkeys(("dynamic_slice", "gather"), first_alike),
    "select_n": cases_alike,
    **dict.fromkeys(("dynamic_update_slice", "scatter", "scatter-add", "scatter-sub"), updated),
    "pad": padded,
    "reduce_sum": reduced,
    **dict.fromkeys(("conv_general_dilated", "dot_general", "mul"), multiplied),
    "div": divided,
    "square": power(2),
    **dict.fromkeys(("eq", "eq_to", "ne"), compared),
    "is_finite": unchanged,
    **dict.fromkeys(_EACH.split(), each),
    "convert_element_type": converted,
}
