"""Functions as flat programs, for everything that asks how a model computes.

`trace` turns a function into a `Program`, `interpret` runs the program on values of any kind. The
flow graph (`pfn_optax.graph`), the unit groups (`pfn_optax.units`) are rules over these two.
"""

from pfn_optax.tracing.interpret import interpret
from pfn_optax.tracing.program import Constant, Equation, Program, Traced, Variable, trace

__all__ = ["Constant", "Equation", "Program", "Traced", "Variable", "interpret", "trace"]
