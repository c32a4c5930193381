"""Runs a program on abstract values of any kind; what the values mean is up to the rules."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from pfn_optax.tracing.program import Constant, Equation, Program

T = TypeVar("T")


def interpret(
    program: Program,
    inputs: Sequence[T],
    *,
    constant: Callable[[Constant], T],
    apply: Callable[[Equation, list[T]], Sequence[T]],
) -> list[T]:
    """Evaluates a program on values of a domain of the caller's.

    Args:
        program: the program.
        inputs: one value per input.
        constant: the value of a constant.
        apply: the rule: an equation and the values it reads, to the values it computes. Loops and
            branches come to it too; it interprets their bodies as it sees fit.

    Returns:
        One value per output.

    Raises:
        ValueError: if the number of inputs is not the program's, or a rule returns a wrong number.

    Example:
        How many operations lie between the input and each output?

        >>> import jax.numpy as jnp
        >>> from pfn_optax.tracing import interpret, trace
        >>> program = trace(lambda x: (jnp.sin(jnp.cos(x)), x), 1.0).program
        >>> interpret(program, [0], constant=lambda _: 0, apply=lambda _, depths: [max(depths) + 1])
        [2, 0]
    """
    known = dict(zip(map(id, program.inputs), inputs, strict=True))

    def read(variable):
        return constant(variable) if isinstance(variable, Constant) else known[id(variable)]

    for equation in program.equations:
        results = apply(equation, [read(variable) for variable in equation.inputs])
        known.update(zip(map(id, equation.outputs), results, strict=True))
    return [read(variable) for variable in program.outputs]
