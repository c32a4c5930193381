"""Gradients of long-time averages, which backpropagation does not survive where there is chaos.

- `value_and_grad_long`: the average and its gradient, by backpropagation, shadowing (with or
  without the unstable contribution), kernel differentiation or the path kernel.
- `LongGradient`, `GradientStatus`, `GradientError`: what it returns, and what can go wrong.
"""

from pfn_optax.dynamics.gradients.long import value_and_grad_long
from pfn_optax.dynamics.gradients.options import Method
from pfn_optax.dynamics.gradients.result import GradientError, GradientStatus, LongGradient

__all__ = ["GradientError", "GradientStatus", "LongGradient", "Method", "value_and_grad_long"]
