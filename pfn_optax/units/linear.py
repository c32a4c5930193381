"""Linear equations in exact arithmetic, between rational numbers or modulo 2."""

from collections.abc import Mapping
from fractions import Fraction

Expression = Mapping[int, Fraction]
"""Coefficients of the unknowns, none of them zero; empty for zero."""

ZERO: Expression = {}


def combined(*terms: tuple[Expression, Fraction | int]) -> Expression:
    """The sum of expressions, each times its factor."""
    result: dict[int, Fraction] = {}
    for expression, factor in terms:
        for unknown, coefficient in expression.items():
            result[unknown] = result.get(unknown, Fraction(0)) + factor * coefficient
    return {unknown: coefficient for unknown, coefficient in result.items() if coefficient}


class LinearSystem:
    """Homogeneous equations, kept in reduced row echelon form.

    An inhomogeneous equation is one in an unknown that stands for the number one; no equation may
    make that unknown zero. Modulo 2 coefficients are 0 or 1, and whole numbers only may be added.
    """

    ONE = -1

    def __init__(self, rows: Mapping[int, Expression] | None = None, *, modulus: int | None = None):
        """A system with given rows: what the unknown of each row is equal to."""
        self._rows = dict(rows or {})
        self._modulus = modulus

    def reduced(self, expression: Expression) -> Expression:
        """The expression in the unknowns that are left free."""
        solved = [unknown for unknown in expression if unknown in self._rows]
        return self._combined(
            ({u: c for u, c in expression.items() if u not in self._rows}, 1),
            *((self._rows[unknown], expression[unknown]) for unknown in solved),
        )

    def require_zero(self, expression: Expression) -> None:
        """Adds the equation that an expression is zero.

        Raises:
            ValueError: if it contradicts the others.
        """
        rest = self.reduced(expression)
        if not rest:
            return
        pivot = max(rest)
        if pivot == self.ONE:
            raise ValueError("the equations contradict each other.")
        solved = self._combined(({u: c for u, c in rest.items() if u != pivot}, -1 / rest[pivot]))
        for unknown, row in self._rows.items():
            if pivot in row:
                self._rows[unknown] = self._combined(
                    ({u: c for u, c in row.items() if u != pivot}, 1), (solved, row[pivot])
                )
        self._rows[pivot] = solved

    def extended(self, expressions: list[Expression]) -> "LinearSystem | None":
        """The system with further equations, or None if they contradict it."""
        system = LinearSystem(self._rows, modulus=self._modulus)
        try:
            for expression in expressions:
                system.require_zero(expression)
        except ValueError:
            return None
        return system

    def _combined(self, *terms: tuple[Expression, Fraction | int]) -> Expression:
        total = combined(*terms)
        if self._modulus is None:
            return total
        return {u: c % self._modulus for u, c in total.items() if c % self._modulus}
