"""What each primitive does to axes: which axes of its operands and results share an index.

A scheme gives every axis of an equation a term over new dims, as einsum gives every axis a letter.
Axes with the same dim are permuted together; a free dim that stands on one side only is summed over
or broadcast, in whatever order; a pinned dim is one along which position matters (the pixels of a
convolution, the axis of a cumulative sum). It is read off the equation alone.
"""

from collections.abc import Callable
from typing import NamedTuple

from pfn_optax.tracing import Equation
from pfn_optax.units.terms import Dim, Term, concatenation, pinned, product

Axes = tuple[Term, ...]


class Scheme(NamedTuple):
    """Terms for every axis of an equation.

    Attributes:
        inputs: for each input its axes.
        outputs: for each output its axes.
    """

    inputs: tuple[Axes, ...]
    outputs: tuple[Axes, ...]


def scheme_of(equation: Equation) -> Scheme | None:
    """The scheme of an equation with new dims, or None if its primitive is not known."""
    rule = _RULES.get(equation.primitive)
    return rule(equation) if rule else None


def pinned_scheme(equation: Equation) -> Scheme:
    """Everything stays where it is."""
    return Scheme(
        tuple(tuple(map(pinned, variable.shape)) for variable in equation.inputs),
        tuple(tuple(map(pinned, variable.shape)) for variable in equation.outputs),
    )


def _free(shape: tuple[int, ...]) -> list[Term]:
    return [Dim(size) for size in shape]


def _fixed(shape: tuple[int, ...]) -> list[Term]:
    return [pinned(size) for size in shape]


def _fitted(axes: list[Term], shape: tuple[int, ...]) -> Axes:
    """The axes of an operand that is broadcast: none of a scalar, one of size one is its own."""
    own = axes if shape else []
    return tuple(
        axis if axis.size == size else pinned(size) for axis, size in zip(own, shape, strict=True)
    )


def _elementwise(equation: Equation) -> Scheme:
    axes = _free(equation.outputs[0].shape)
    return Scheme(
        tuple(_fitted(axes, variable.shape) for variable in equation.inputs),
        tuple(tuple(axes) for _ in equation.outputs),
    )


def _each(equation: Equation) -> Scheme:
    """Several operands, each with a result of its own; axes that change their size are pinned."""
    inputs, outputs = [], []
    for operand, result in zip(equation.inputs, equation.outputs, strict=True):
        axes = _free(operand.shape)
        inputs.append(tuple(axes))
        outputs.append(_fitted(axes, result.shape))
        for k, size in enumerate(result.shape):
            if operand.shape[k] != size:
                inputs[-1] = (*inputs[-1][:k], pinned(operand.shape[k]), *inputs[-1][k + 1 :])
    return Scheme(tuple(inputs), tuple(outputs))


def _along(*names: str) -> Callable[[Equation], Scheme]:
    """Elementwise but for the axes that a parameter names, along which positions matter."""

    def rule(equation: Equation) -> Scheme:
        worked_on = set().union(*(_numbers(equation.params[name]) for name in names))
        axes: list[Term] = [
            pinned(size) if k in worked_on else Dim(size)
            for k, size in enumerate(equation.inputs[0].shape)
        ]
        return Scheme(
            tuple(tuple(axes) for _ in equation.inputs),
            tuple(tuple(axes) for _ in equation.outputs),
        )

    return rule


def _numbers(value: int | tuple[int, ...]) -> set[int]:
    return {value} if isinstance(value, int) else set(value)


def _reduce(equation: Equation) -> Scheme:
    return _without(equation, Dim)


def _select_along(equation: Equation) -> Scheme:
    """The result tells positions along the axes that it drops."""
    return _without(equation, pinned)


def _without(equation: Equation, new: Callable[[int], Dim]) -> Scheme:
    dropped = _numbers(tuple(equation.params["axes"]))
    axes = [new(n) if k in dropped else Dim(n) for k, n in enumerate(equation.inputs[0].shape)]
    kept = tuple(axis for k, axis in enumerate(axes) if k not in dropped)
    return Scheme((tuple(axes),) * len(equation.inputs), (kept,) * len(equation.outputs))


def _transpose(equation: Equation) -> Scheme:
    axes = _free(equation.inputs[0].shape)
    return Scheme((tuple(axes),), (tuple(axes[k] for k in equation.params["permutation"]),))


def _squeeze(equation: Equation) -> Scheme:
    shape = equation.inputs[0].shape
    dropped = {k % len(shape) for k in equation.params["dimensions"]}
    axes = [pinned(n) if k in dropped else Dim(n) for k, n in enumerate(shape)]
    return Scheme((tuple(axes),), (tuple(axis for k, axis in enumerate(axes) if k not in dropped),))


def _broadcast_in_dim(equation: Equation) -> Scheme:
    operand, *sizes = (variable.shape for variable in equation.inputs)
    result = _free(equation.outputs[0].shape)
    source = [result[k] for k in equation.params["broadcast_dimensions"]]
    return Scheme((_fitted(source, operand), *(() for _ in sizes)), (tuple(result),))


def _reshape(equation: Equation) -> Scheme:
    before, after = equation.inputs[0].shape, equation.outputs[0].shape
    if equation.params.get("dimensions") is not None:
        return pinned_scheme(equation)
    if 0 in before:  # no entries to keep in order
        return Scheme((tuple(_free(before)),), (tuple(_free(after)),))
    left, right = _common_factors([n for n in before if n > 1], [n for n in after if n > 1])
    # Axes of size one belong together from the right, where units lie in most libraries.
    ones = [Dim(1) for _ in range(min(before.count(1), after.count(1)))]

    def with_ones(shape: tuple[int, ...], terms: list[Term]) -> Axes:
        missing = [pinned(1) for _ in range(shape.count(1) - len(ones))]
        single, several = iter((*missing, *ones)), iter(terms)
        return tuple(next(single) if n == 1 else next(several) for n in shape)

    return Scheme((with_ones(before, left),), (with_ones(after, right),))


def _common_factors(left: list[int], right: list[int]) -> tuple[list[Term], list[Term]]:
    """Two factorisations of a number as products over common dims, pinned where they overlap."""
    dims: tuple[list[list[Term]], ...] = ([[] for _ in left], [[] for _ in right])
    sizes, at = (list(left), list(right)), [0, 0]
    while at[0] < len(left):
        here = [sizes[side][at[side]] for side in (0, 1)]
        small = min(here)
        if max(here) % small:
            _pin_overlap(sizes, dims, at)
            continue
        shared = Dim(small)
        for side in (0, 1):
            dims[side][at[side]].append(shared)
            sizes[side][at[side]] //= small
            at[side] += sizes[side][at[side]] == 1
    return [product(factors) for factors in dims[0]], [product(factors) for factors in dims[1]]


def _pin_overlap(
    sizes: tuple[list[int], ...], dims: tuple[list[list[Term]], ...], at: list[int]
) -> None:
    """Moves on to where both sides have covered the same number, pinning what lies between."""
    covered = [1, 1]
    while covered[0] != covered[1] or covered == [1, 1]:
        side = int(covered[0] > covered[1])
        size = sizes[side][at[side]]
        dims[side][at[side]].append(pinned(size))
        covered[side] *= size
        at[side] += 1


def _concatenate(equation: Equation) -> Scheme:
    along = equation.params["dimension"]
    axes = _free(equation.outputs[0].shape)
    parts = [Dim(variable.shape[along]) for variable in equation.inputs]

    def with_part(part: Term) -> Axes:
        return (*axes[:along], part, *axes[along + 1 :])

    return Scheme(tuple(map(with_part, parts)), (with_part(concatenation(parts)),))


def _split(equation: Equation) -> Scheme:
    along = equation.params["axis"]
    axes = _free(equation.inputs[0].shape)
    parts = [Dim(size) for size in equation.params["sizes"]]

    def with_part(part: Term) -> Axes:
        return (*axes[:along], part, *axes[along + 1 :])

    return Scheme((with_part(concatenation(parts)),), tuple(map(with_part, parts)))


def _stack(equation: Equation) -> Scheme:
    axes, along = _free(equation.inputs[0].shape), equation.params["axis"]
    stacked = (*axes[:along], pinned(len(equation.inputs)), *axes[along:])
    return Scheme((tuple(axes),) * len(equation.inputs), (stacked,))


def _unstack(equation: Equation) -> Scheme:
    axes, along = _free(equation.outputs[0].shape), equation.params["axis"]
    stacked = (*axes[:along], pinned(len(equation.outputs)), *axes[along:])
    return Scheme((stacked,), (tuple(axes),) * len(equation.outputs))


def _tile(equation: Equation) -> Scheme:
    axes, repeats = _free(equation.inputs[0].shape), equation.params["reps"]
    tiled = [
        product((Dim(n), axis)) if n > 1 else axis for n, axis in zip(repeats, axes, strict=True)
    ]
    return Scheme((tuple(axes),), (tuple(tiled),))


def _slice(equation: Equation) -> Scheme:
    shape, starts = equation.inputs[0].shape, equation.params["start_indices"]
    stops = equation.params["limit_indices"]
    strides = equation.params["strides"] or (1,) * len(shape)
    pairs = [
        (pinned(size), pinned(len(range(start, stop, stride))))
        if stride > 1
        else _stretch(start, stop - start, size - stop)
        for size, start, stop, stride in zip(shape, starts, stops, strides, strict=True)
    ]
    return Scheme((tuple(whole for whole, _ in pairs),), (tuple(part for _, part in pairs),))


def _stretch(before: int, size: int, after: int) -> tuple[Term, Term]:
    """An axis and a stretch of it."""
    part = Dim(int(size))
    return concatenation((Dim(int(before)), part, Dim(int(after)))), part


def _pad(equation: Equation) -> Scheme:
    pairs = [
        (pinned(size), pinned(padded))
        if inside or min(low, high) < 0
        else _stretch(low, size, high)[::-1]
        for size, padded, (low, high, inside) in zip(
            equation.inputs[0].shape,
            equation.outputs[0].shape,
            equation.params["padding_config"],
            strict=True,
        )
    ]
    return Scheme((tuple(part for part, _ in pairs), ()), (tuple(whole for _, whole in pairs),))


def _dynamic_slice(equation: Equation) -> Scheme:
    """Axes that are taken whole keep their units."""
    operand, *starts = equation.inputs
    result = equation.outputs[0].shape
    axes: list[Term] = [
        Dim(n) if n == m else pinned(n) for n, m in zip(operand.shape, result, strict=True)
    ]
    return Scheme((tuple(axes), *(() for _ in starts)), (_fitted(axes, result),))


def _dynamic_update_slice(equation: Equation) -> Scheme:
    operand, update, *starts = equation.inputs
    axes: list[Term] = [
        Dim(n) if n == m else pinned(n) for n, m in zip(operand.shape, update.shape, strict=True)
    ]
    return Scheme((tuple(axes), _fitted(axes, update.shape), *(() for _ in starts)), (tuple(axes),))


def _gather(equation: Equation) -> Scheme:
    """Axes that are taken whole keep their units, and so do those of the array of indices."""
    numbers, (operand, indices) = equation.params["dimension_numbers"], equation.inputs
    result = equation.outputs[0].shape
    batch: list[Term] = _free(indices.shape[:-1])
    source: list[Term] = [pinned(n) for n in operand.shape]
    for k, position in zip(
        numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True
    ):
        source[k] = batch[position]
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    window: list[Term] = []
    for k in range(len(operand.shape)):
        if k not in gone:
            taken = equation.params["slice_sizes"][k]
            if taken == operand.shape[k]:
                source[k] = Dim(taken)
            window.append(source[k] if taken == operand.shape[k] else pinned(taken))
    offsets, batches = iter(window), iter(batch)
    axes = [
        next(offsets) if k in numbers.offset_dims else next(batches) for k in range(len(result))
    ]
    return Scheme((tuple(source), (*batch, pinned(indices.shape[-1]))), (tuple(axes),))


def _scatter(equation: Equation) -> Scheme:
    """Axes that are written whole keep their units."""
    numbers = equation.params["dimension_numbers"]
    operand, indices, updates = equation.inputs
    gone = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    target: list[Term] = [pinned(n) for n in operand.shape]
    written: list[Term] = [pinned(n) for n in updates.shape]
    kept = [k for k in range(len(operand.shape)) if k not in gone]
    for k, position in zip(kept, numbers.update_window_dims, strict=True):
        if operand.shape[k] == updates.shape[position]:
            target[k] = written[position] = Dim(operand.shape[k])
    return Scheme(
        (tuple(target), tuple(map(pinned, indices.shape)), tuple(written)), (tuple(target),)
    )


def _reduce_window(equation: Equation) -> Scheme:
    """An axis along which the window has one entry, and moves by one, is left alone."""
    if len(equation.inputs) != 1:
        return pinned_scheme(equation)
    rank, params = len(equation.inputs[0].shape), equation.params
    alone = [
        (params["window_dimensions"][k], params["window_strides"][k], *params["padding"][k])
        == (1, 1, 0, 0)
        and params["base_dilation"][k] == 1
        for k in range(rank)
    ]
    axes = [Dim(n) if alone[k] else pinned(n) for k, n in enumerate(equation.inputs[0].shape)]
    result = [axes[k] if alone[k] else pinned(n) for k, n in enumerate(equation.outputs[0].shape)]
    return Scheme((tuple(axes),), (tuple(result),))


def _dot_general(equation: Equation) -> Scheme:
    contracted, batched = equation.params["dimension_numbers"]
    left, right = (_free(variable.shape) for variable in equation.inputs)
    for pairs in (contracted, batched):
        for i, j in zip(*pairs, strict=True):
            right[j] = left[i]
    free_left = [a for k, a in enumerate(left) if k not in {*contracted[0], *batched[0]}]
    free_right = [a for k, a in enumerate(right) if k not in {*contracted[1], *batched[1]}]
    batch = [left[k] for k in batched[0]]
    return Scheme((tuple(left), tuple(right)), ((*batch, *free_left, *free_right),))


def _conv(equation: Equation) -> Scheme:
    """Channels are contracted, group by group; pixels stay where they are."""
    image, kernel = (variable.shape for variable in equation.inputs)
    result = equation.outputs[0].shape
    if equation.params["batch_group_count"] > 1:
        return pinned_scheme(equation)
    numbers = equation.params["dimension_numbers"]
    lhs, rhs, out = (_fixed(shape) for shape in (image, kernel, result))
    batch, channel, *_ = numbers.lhs_spec
    to, source, *_ = numbers.rhs_spec
    groups = equation.params["feature_group_count"]
    lhs[batch] = out[numbers.out_spec[0]] = Dim(image[batch])
    across = Dim(groups)
    inside = Dim(kernel[source])
    each = Dim(kernel[to] // groups)
    rhs[source] = inside
    lhs[channel] = product((across, inside)) if groups > 1 else inside
    rhs[to] = out[numbers.out_spec[1]] = product((across, each)) if groups > 1 else each
    return Scheme((tuple(lhs), tuple(rhs)), (tuple(out),))


_ELEMENTWISE = """
abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz
complex conj convert_element_type copy copy_p cos cosh digamma div eq eq_to erf erf_inv erfc exp
exp2 expm1 floor ge gt igamma igamma_grad_a igammac imag integer_pow is_finite layout_constraint le
le_to lgamma log log1p log2 logistic lt lt_to max min mul mulhi name ne neg nextafter not
one_minus_square or pcast polygamma population_count pow pvary real reduce_precision
regularized_incomplete_beta rem round rsqrt select_n sharding_constraint shift_left
shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor
zeta
"""
ELEMENTWISE = frozenset(_ELEMENTWISE.split())
# Nothing of what they read or make can be permuted, and nobody expects it to be.
_ALWAYS_PINNED = """
axis_index fft iota random_bits random_clone random_fold_in random_gamma random_seed random_split
random_unwrap random_wrap rng_bit_generator rng_uniform threefry2x32 top_k
"""
_ACROSS_DEVICES = "pmax pmean pmin psum psum_invariant shard unshard"

_RULES: dict[str, Callable[[Equation], Scheme]] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(_ALWAYS_PINNED.split(), pinned_scheme),
    **dict.fromkeys(("device_put", "optimization_barrier"), _each),
    **dict.fromkeys(_ACROSS_DEVICES.split(), _each),
    **dict.fromkeys(("cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum"), _along("axis")),
    "rev": _along("dimensions"),
    "sort": _along("dimension"),
    **dict.fromkeys(
        (f"reduce_{kind}" for kind in ("and", "max", "min", "or", "prod", "sum", "xor")), _reduce
    ),
    "argmax": _select_along,
    "argmin": _select_along,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": _reshape,
    "concatenate": _concatenate,
    "split": _split,
    "stack": _stack,
    "unstack": _unstack,
    "tile": _tile,
    "slice": _slice,
    "pad": _pad,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
    **dict.fromkeys(
        ("scatter", *(f"scatter-{kind}" for kind in ("add", "max", "min", "mul", "sub"))), _scatter
    ),
    **dict.fromkeys(
        ("reduce_window", "reduce_window_max", "reduce_window_min", "reduce_window_sum"),
        _reduce_window,
    ),
    "dot_general": _dot_general,
    "conv_general_dilated": _conv,
}
