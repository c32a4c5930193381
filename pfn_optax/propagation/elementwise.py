"""Which operations act number by number, and where the axes of units go in those that only move."""

import math

from pfn_optax.tracing import Equation

Axes = tuple[int, ...]

# With one operand that depends on data, or several of the same: affine in it.
_AFFINE = frozenset(
    """add add_any sub neg mul div convert_element_type copy copy_p pvary pcast reduce_precision
    sharding_constraint optimization_barrier""".split()
)
_OTHERS = frozenset(
    """max min clamp select_n exp exp2 log log1p expm1 tanh logistic sin cos tan sinh cosh asin acos
    atan asinh acosh atanh atan2 erf erfc erf_inv sqrt rsqrt cbrt integer_pow pow square abs sign
    floor ceil round rem eq ne lt le gt ge and or not xor is_finite stop_gradient lgamma digamma
    nextafter""".split()
)
ELEMENTWISE = _AFFINE | _OTHERS

# What normalisations and losses take of activations. Alone, none of them makes an activation.
STATISTIC = frozenset(
    """mul pow integer_pow square abs exp exp2 log sqrt rsqrt eq ne lt le gt ge is_finite
    stop_gradient""".split()
)

# The ends of the range of activations that have one.
BOUNDS = {"tanh": (-1.0, 1.0), "logistic": (0.0, 1.0), "erf": (-1.0, 1.0)}


def is_affine(equation: Equation, num_data: int, *, is_choice_data: bool) -> bool:
    """Whether an elementwise equation is affine in what depends on data.

    Args:
        equation: the equation.
        num_data: how many of its operands depend on data.
        is_choice_data: whether its first operand does, by which `select_n` chooses.

    Returns:
        True if it is.
    """
    name = equation.primitive
    if name == "select_n":
        return num_data == 1 and not is_choice_data
    if name == "div":
        return num_data == 1 and is_choice_data
    return name in _AFFINE and (name != "mul" or num_data == 1)


def moved(equation: Equation, axes: Axes) -> Axes | None:
    """Where the axes of units go in an operation that only moves entries.

    Args:
        equation: the equation; its first input is what moves.
        axes: axes of units of that input.

    Returns:
        Their axes in the output, None if it does more or they are lost.
    """
    name, source, target = equation.primitive, equation.inputs[0], equation.outputs[0]
    if name == "transpose":
        return tuple(equation.params["permutation"].index(axis) for axis in axes)
    if name == "broadcast_in_dim" and source.size == target.size:
        return tuple(equation.params["broadcast_dimensions"][axis] for axis in axes)
    if name in ("reshape", "squeeze") and axes == _last(source.shape, axes):
        return _suffix(target.shape, math.prod(source.shape[axis] for axis in axes))
    return None


def _last(shape: tuple[int, ...], axes: Axes) -> Axes:
    return tuple(range(len(shape) - len(axes), len(shape)))


def _suffix(shape: tuple[int, ...], size: int) -> Axes | None:
    """The fewest last axes that hold so many entries."""
    for start in range(len(shape) - 1, -1, -1):
        if math.prod(shape[start:]) == size:
            return tuple(range(start, len(shape)))
    return None
