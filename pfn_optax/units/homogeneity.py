"""How each primitive scales: positive factors pass through what is homogeneous.

What is not (tanh, + 1) asks for the exponent 0. Zero and infinity scale as one likes: relu is
max(x, 0).
"""

from fractions import Fraction

import numpy as np

from pfn_optax.tracing import Constant, Equation
from pfn_optax.units.exponents import (
    ARITHMETIC,
    Rule,
    Symmetry,
    alike,
    compared,
    each,
    invariant,
    power,
    reduced,
    unchanged,
    updated,
)


def _rule_of(equation: Equation) -> Rule:
    name, params = equation.primitive, equation.params
    if name == "integer_pow":
        return power(params["y"])
    if name == "pow" and isinstance(equation.inputs[1], Constant) and not equation.inputs[1].shape:
        return power(Fraction(float(equation.inputs[1].value)))
    return _RULES.get(name, invariant)


_ALIKE = "abs clamp cummax cummin max min reduce_window_max reduce_window_min"

_RULES: dict[str, Rule] = {
    **ARITHMETIC,
    **dict.fromkeys(_ALIKE.split(), alike),
    **dict.fromkeys(("scatter-max", "scatter-min"), updated),
    **dict.fromkeys(("reduce_max", "reduce_min"), reduced),
    "sqrt": power(Fraction(1, 2)),
    "rsqrt": power(Fraction(-1, 2)),
    "cbrt": power(Fraction(1, 3)),
    **dict.fromkeys(("atan2", "ge", "gt", "le", "le_to", "lt", "lt_to"), compared),
    **dict.fromkeys(("argmax", "argmin", "sign"), unchanged),
    **dict.fromkeys(("pmax", "pmin", "sort"), each),
}

POSITIVE_SCALES = Symmetry(
    rule_of=_rule_of,
    is_free=lambda value: np.isinf(value) | (value == 0),
    modulus=None,
    # A scale stays near to what reads the units: with a batch normalisation between two
    # convolutions it changes the norm's scale and bias, but not the first convolution, whose
    # statistics would change in training.
    preferred=0,
)
