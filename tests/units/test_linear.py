"""Exact elimination against NumPy."""

from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from pfn_optax.units.linear import LinearSystem, combined

COEFFICIENTS = st.lists(st.integers(-3, 3), min_size=4, max_size=4)


def expression(coefficients):
    return {k: Fraction(c) for k, c in enumerate(coefficients) if c}


@given(st.lists(COEFFICIENTS, max_size=5), COEFFICIENTS)
def test_an_expression_vanishes_where_the_equations_say_so(rows, candidate):
    system = LinearSystem()
    for row in rows:
        system.require_zero(expression(row))
    matrix = np.asarray([*rows, [0] * 4])
    is_implied = np.linalg.matrix_rank([*matrix, candidate]) == np.linalg.matrix_rank(matrix)
    assert (not system.reduced(expression(candidate))) == is_implied


@given(st.lists(COEFFICIENTS, max_size=5), COEFFICIENTS)
def test_modulo_two_every_point_is_tried(rows, candidate):
    """Of the sixteen points, the candidate vanishes on all that solve the equations, or not."""
    system = LinearSystem(modulus=2)
    for row in rows:
        system.require_zero(expression(row))
    points = np.indices((2,) * 4).reshape(4, -1)
    matrix = np.asarray(rows, int).reshape(-1, 4)
    solutions = points[:, ~(matrix @ points % 2).any(0)]
    is_implied = not (candidate @ solutions % 2).any()
    assert (not system.reduced(expression(candidate))) == is_implied


def test_contradictions():
    one = {LinearSystem.ONE: Fraction(1)}
    x_is_one = combined(({0: Fraction(1)}, 1), (one, -1))
    system = LinearSystem()
    system.require_zero(x_is_one)
    assert system.reduced({0: Fraction(1)}) == one
    assert system.extended([{0: Fraction(1)}]) is None
    with pytest.raises(ValueError, match="the equations contradict each other"):
        system.require_zero({0: Fraction(2)})
