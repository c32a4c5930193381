"""How each primitive changes its sign: signs pass through what is odd, and end in what is even.

A unit whose incoming weights are flipped comes out flipped where all between is odd (tanh), and
where its outgoing weights are flipped too the function stays as it is. What is neither odd nor even
(relu, gelu, a gate) asks for the exponent 0. Oddness is read off the primitives one by one, so what
is odd by its parts only (max(-1, min(1, x))) is not known to be.

Reference: Chen, Lu, Hecht-Nielsen, "On the geometry of feedforward neural network error surfaces",
Neural Computation 5(6), 1993.
"""

from pfn_optax.tracing import Equation
from pfn_optax.units.exponents import (
    ARITHMETIC,
    Rule,
    Symmetry,
    alike,
    invariant,
    power,
    unchanged,
)


def _rule_of(equation: Equation) -> Rule:
    if equation.primitive == "integer_pow":
        return power(equation.params["y"])
    return _RULES.get(equation.primitive, invariant)


_ODD = "asin asinh atan atanh bessel_i1e cbrt erf erf_inv round sign sin sinh tan tanh"
_EVEN = "abs bessel_i0e cos cosh"

_RULES: dict[str, Rule] = {
    **ARITHMETIC,
    **dict.fromkeys(_ODD.split(), alike),
    **dict.fromkeys(_EVEN.split(), unchanged),
}

SIGNS = Symmetry(
    rule_of=_rule_of,
    is_free=lambda value: value == 0,
    modulus=2,
    # A flip comes as early as it can: with a batch normalisation it changes the convolution and
    # the mean, and the norm's scale stays positive.
    preferred=1,
)
