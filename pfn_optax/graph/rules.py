"""How values meet in a program: the rules that draw a sketch of it.

A value is at a node (it depends on data), or it holds weights (it is made of parameters alone), or
neither. Where a product of any kind brings data and weights together, the sketch gets a layer;
where an operation brings data and data together, a junction. What is added to data and is no data
itself (a bias, an L2 term) changes nothing.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pfn_optax.graph.sketch import Operand, Sketch, Use
from pfn_optax.paths import Path
from pfn_optax.tracing import Constant, Equation, Variable, interpret

# Sums of some kind: an operand that holds only weights is a bias there, not a factor.
_ADDITIVE = frozenset(
    """add add_any sub max min clamp concatenate pad select_n nextafter dynamic_update_slice scatter
    scatter-add scatter_add scatter-sub scatter_sub scatter_max scatter_min""".split()
)
# Their operands stand side by side.
_CONCATENATING = frozenset({"concatenate", "dynamic_update_slice", "scatter"})
# Only so many of the first operands are values; the others say where.
_NUM_VALUES = {"dynamic_slice": 1, "dynamic_update_slice": 2, "sort": 1}
_RANDOM = frozenset(
    """random_bits random_seed random_wrap random_unwrap random_split random_fold_in random_clone
    threefry2x32 random_gamma rng_bit_generator rng_uniform iota""".split()
)
_OPAQUE = frozenset(
    """pallas_call tpu_custom_call triton_kernel_call mosaic_gpu_custom_call ffi_call custom_call
    pure_callback io_callback""".split()
)
# What unraveling does to a vector.
_UNRAVELING = frozenset("slice split reshape squeeze convert_element_type dynamic_slice".split())
_MAX_PRODUCTS = 8


class Product(NamedTuple):
    """Matrices multiplied with each other.

    Attributes:
        factors: their key paths, from left to right.
        axes: for each axis of the value, the factor and the axis that it is; None once lost.
        is_matrix: whether the value still is one; not once it was summed over or multiplied by
            constants (the recurrent matrix at a state of zero), when it scales as a norm's vector.
    """

    factors: tuple[Path, ...]
    axes: tuple[tuple[Path, int], ...] | None
    is_matrix: bool = True


class Value(NamedTuple):
    """What is known of a value.

    Attributes:
        node: its node in the sketch; None if no data is in it.
        is_discrete: whether it comes from whole numbers or booleans and has met no weights: it can
            choose and mask, but no gradient goes back through it.
        products: products of matrices whose sum it is, where no data is in it.
        stretch_of: key path of the vector that it is a stretch of, where it is no layer.
    """

    node: int | None = None
    is_discrete: bool = False
    products: frozenset[Product] = frozenset()
    stretch_of: Path | None = None


NOTHING = Value()


class Opaque(NamedTuple):
    """An operation that cannot be looked into.

    Attributes:
        primitive: its name.
        scope: where in the model it is.
        layers: key paths of the matrices that enter it.
    """

    primitive: str
    scope: str
    layers: tuple[Path, ...]


class GraphRules:
    """Rules for `interpret` that draw a sketch.

    Attributes:
        sketch: the sketch.
        opaque: opaque operations met on the way.
        raveled: key paths of vectors that entered a product as matrices.
    """

    def __init__(self, shapes: Mapping[Path, tuple[int, ...]], *, takes_constants: bool):
        """Starts an empty sketch.

        Args:
            shapes: shapes of the matrices that make layers, by key path.
            takes_constants: whether arrays that the function closed over may be data.
        """
        self.sketch: Sketch = Sketch()
        self.opaque: list[Opaque] = []
        self.raveled: set[Path] = set()
        self._shapes = shapes
        self._takes_constants = takes_constants
        self._constants: dict[int, Value] = {}

    def argument(self, path: Path, variable: Variable) -> Value:
        """The value of an argument that is not a parameter."""
        if _is_key(variable):
            return NOTHING
        return Value(self.sketch.add_data(path), is_discrete=not _is_inexact(variable))

    def parameter(self, path: Path) -> Value:
        """The value of a parameter."""
        if path not in self._shapes:
            return Value(stretch_of=path)
        axes = tuple((path, axis) for axis in range(len(self._shapes[path])))
        return Value(products=frozenset({Product((path,), axes)}))

    def constant(self, constant: Constant) -> Value:
        """The value of a literal or of an array that the function closed over."""
        if not (self._takes_constants and constant.size > 1):
            return NOTHING
        key = id(constant.value)
        if key not in self._constants:
            name = f"closed-over array {len(self._constants)} of shape {constant.shape}"
            self._constants[key] = self.argument((name,), constant)
        return self._constants[key]

    def apply(self, equation: Equation, inputs: Sequence[Value]) -> list[Value]:
        """The rule."""
        if equation.primitive == "loop":
            return self._loop(equation, inputs)
        if equation.primitive == "branch":
            return self._branch(equation, inputs)
        if equation.primitive in _RANDOM:
            return [NOTHING] * len(equation.outputs)
        if equation.primitive in _OPAQUE and any(v.node is not None or v.products for v in inputs):
            paths = {path for value in inputs for one in value.products for path in one.factors}
            self.opaque.append(Opaque(equation.primitive, equation.scope, tuple(sorted(paths))))
        value = self._meet(equation, inputs)
        return [self._passed(equation, value, output) for output in equation.outputs]

    def _passed(self, equation: Equation, value: Value, output: Variable) -> Value:
        """What is left of a value that no gradient goes back through: data can still choose."""
        if value.node is None or (_is_inexact(output) and equation.primitive != "stop_gradient"):
            return value if _is_inexact(output) else NOTHING
        is_whole = not _is_inexact(output)
        # What arguments make and is then held fixed is a target (a teacher's output).
        is_kept = self.sketch.is_data(value.node) if is_whole else value.node in self.sketch.data
        return Value(value.node, is_discrete=is_whole) if is_kept else NOTHING

    def _meet(self, equation: Equation, inputs: Sequence[Value]) -> Value:
        name = equation.primitive
        known = list(zip(inputs, equation.inputs, strict=True))
        if name == "select_n":
            known = known[1:]
        elif name == "clamp":
            known = known[1:2]
        elif name in _NUM_VALUES and not any(value.products for value, _ in known):
            known = known[: _NUM_VALUES[name]]
        data = [(value, variable) for value, variable in known if value.node is not None]
        weights = [(value, index) for index, (value, _) in enumerate(known) if value.products]
        if name in ("mul", "div"):
            weights = [one for one in weights if _has_matrix(one[0])]
        if not data:
            if name in _UNRAVELING and not weights:
                return Value(stretch_of=inputs[0].stretch_of)
            return self._weights_alone(equation, weights)
        if name in ("dot_general", "conv_general_dilated"):
            self.raveled |= set(_raveled(known, self._shapes))
        node, is_discrete = self._join(equation, data)
        if not weights or name in _ADDITIVE:
            return Value(node, is_discrete)
        tails = [
            self._apply(equation, product, index, node)
            for value, index in weights
            for product in _distinct(value.products)
        ]
        shape = equation.outputs[0].shape
        return Value(self.sketch.join([Operand(tail, shape) for tail in tails]))

    def _join(self, equation: Equation, data: Sequence[tuple[Value, Variable]]) -> tuple[int, bool]:
        continuous = [(value, variable) for value, variable in data if not value.is_discrete]
        node = self.sketch.join(
            (_operand(value, variable) for value, variable in continuous or data),
            is_concatenation=equation.primitive in _CONCATENATING,
        )
        return node, not continuous

    def _apply(self, equation: Equation, product: Product, index: int, node: int) -> int:
        """Applies the matrices of a product, one after the other, to the data at a node."""
        in_dims, out_dims, positions = _dimensions(equation, index)
        read = _axes_of(product, in_dims)
        if len(product.factors) == 1:
            [path] = product.factors
            return self.sketch.apply(
                Use(path, _numbers(read), _numbers(_axes_of(product, out_dims))), node, positions
            )
        is_last_first = read and read[0][0] == product.factors[-1]
        for path in reversed(product.factors) if is_last_first else product.factors:
            node = self.sketch.apply(Use(path), node, positions)
        return node

    def _weights_alone(self, equation: Equation, weights: Sequence[tuple[Value, int]]) -> Value:
        """Parameters among themselves: a sum of products of sums is a sum of products."""
        terms = [
            {
                _after(equation, index, product, is_alone=len(weights) == 1)
                for product in value.products
            }
            for value, index in weights
        ]
        if equation.primitive in _ADDITIVE or len(terms) < 2:
            return Value(products=frozenset().union(*terms))
        products = {_product(equation, factors) for factors in itertools.product(*terms)}
        if len(products) > _MAX_PRODUCTS:
            products = {Product((path,), None) for one in products for path in one.factors}
        return Value(products=frozenset(products))

    def _branch(self, equation: Equation, inputs: Sequence[Value]) -> list[Value]:
        results = [
            interpret(body, inputs[1:], constant=self.constant, apply=self.apply)
            for body in equation.bodies
        ]
        return [
            self._either(values, output)
            for values, output in zip(zip(*results, strict=True), equation.outputs, strict=True)
        ]

    def _either(self, values: Sequence[Value], output: Variable) -> Value:
        with_data = [value for value in values if value.node is not None]
        if not with_data:
            return Value(products=frozenset().union(*(value.products for value in values)))
        node = self.sketch.join(_operand(value, output) for value in with_data)
        return Value(node, all(value.is_discrete for value in with_data))

    def _loop(self, equation: Equation, inputs: Sequence[Value]) -> list[Value]:
        """Follows the body until data has reached every part of the state that it can reach.

        That is one round for layers scanned over, two for a recurrent network whose state starts at
        zero: there the first round has no data in the state. Further rounds would repeat the last.
        """
        start, stop = equation.num_consts, equation.num_consts + equation.num_carry
        consts, carry, slices = inputs[:start], list(inputs[start:stop]), inputs[stop:]
        sliced = [
            value._replace(products=frozenset(filter(None, map(_sliced, value.products))))
            for value in slices
        ]
        while True:
            results = interpret(
                equation.bodies[0],
                [*consts, *carry, *sliced],
                constant=self.constant,
                apply=self.apply,
            )
            after = results[: len(carry)]
            rounds = list(zip(carry, after, strict=True))
            if all(old.node is not None or new.node is None for old, new in rounds):
                return results
            carry = [old if new.node is None else new for old, new in rounds]


def _operand(value: Value, variable: Variable) -> Operand:
    assert value.node is not None
    return Operand(value.node, variable.shape)


def _distinct(products: Iterable[Product]) -> list[Product]:
    """One product of the same matrices, that whose axes are known (a matrix plus its transpose)."""
    chosen = {p.factors: p for p in sorted(products, key=lambda p: (p.factors, p.axes or ()))}
    return list(chosen.values())


def _raveled(
    known: Sequence[tuple[Value, Variable]], shapes: Mapping[Path, tuple[int, ...]]
) -> Iterator[Path]:
    """Vectors among the parameters that enter a product as matrices."""
    for value, variable in known:
        if len(variable.shape) > 1:
            yield from filter(None, (value.stretch_of,))
            factors = {path for product in value.products for path in product.factors}
            yield from (path for path in factors if len(shapes[path]) == 1)


def _has_matrix(value: Value) -> bool:
    return any(product.is_matrix for product in value.products)


def _product(equation: Equation, terms: tuple[Product, ...]) -> Product:
    """One product of several; a matrix that is divided by its own norm stays one factor."""
    factors = tuple(dict.fromkeys(itertools.chain(*(term.factors for term in terms))))
    known = [term.axes for term in terms if term.axes is not None]
    if equation.primitive == "dot_general" and len(terms) == len(known) == 2:
        dims, batch = equation.params["dimension_numbers"]
        left, right = (
            [axis for dim, axis in enumerate(axes) if dim not in (*dims[side], *batch[side])]
            for side, axes in enumerate(known)
        )
        axes = (*(known[0][dim] for dim in batch[0]), *left, *right)
    else:
        matrices = [term.axes for term in terms if term.is_matrix and term.axes is not None]
        axes = matrices[0] if matrices else None
    return Product(factors, axes, any(term.is_matrix for term in terms))


def _after(equation: Equation, index: int, product: Product, *, is_alone: bool) -> Product:
    """A product after an operation among weights and constants."""
    name, axes = equation.primitive, product.axes
    is_summed = name.startswith("reduce_") or name in ("dot_general", "conv_general_dilated")
    if is_summed and not is_alone:
        return product  # `_product` takes the sides apart
    if name == "transpose" and axes is not None:
        axes = tuple(axes[dim] for dim in equation.params["permutation"])
    elif is_summed or name in ("reshape", "broadcast_in_dim", "rev"):
        axes = None
    else:
        axes = axes if equation.inputs[index].shape == equation.outputs[0].shape else None
    return Product(product.factors, axes, product.is_matrix and not is_summed)


def _sliced(product: Product) -> Product | None:
    """One round's slice of weights; that of stacked vectors (of norms, biases) is no matrix."""
    if product.axes is None:
        return product
    return None if len(product.axes) < 3 else product._replace(axes=product.axes[1:])


def _axes_of(product: Product, dims: Sequence[int] | None) -> tuple[tuple[Path, int], ...] | None:
    if product.axes is None or dims is None:
        return None
    return tuple(product.axes[dim] for dim in dims)


def _numbers(axes: tuple[tuple[Path, int], ...] | None) -> tuple[int, ...] | None:
    return None if axes is None else tuple(axis for _, axis in axes)


def _dimensions(
    equation: Equation, index: int
) -> tuple[Sequence[int] | None, Sequence[int] | None, int]:
    """How weights meet data.

    Returns the dimensions of the weights that are summed with the data, those that the result has,
    and the number of positions at which the weights are applied.
    """
    out = equation.outputs[0]
    shape = equation.inputs[index].shape
    if equation.primitive == "dot_general":
        contracted, batch = equation.params["dimension_numbers"]
        in_dims, batch_dims = contracted[index], batch[index]
        out_dims = [d for d in range(len(shape)) if d not in in_dims and d not in batch_dims]
    elif equation.primitive == "conv_general_dilated" and index == 1:
        out_dim, in_dim, *_ = equation.params["dimension_numbers"].rhs_spec
        in_dims, out_dims = [in_dim], [out_dim]
    elif equation.primitive == "gather" and index == 0:
        in_dims = equation.params["dimension_numbers"].start_index_map
        out_dims = [d for d in range(len(shape)) if d not in in_dims]
    else:
        return None, None, 1
    num_outputs = 1
    for dim in out_dims:
        num_outputs *= shape[dim]
    return in_dims, out_dims, max(1, out.size // max(1, num_outputs))


def _is_inexact(variable: Variable) -> bool:
    return not _is_key(variable) and jnp.issubdtype(variable.dtype, jnp.inexact)


def _is_key(variable: Variable) -> bool:
    return jnp.issubdtype(variable.dtype, jax.dtypes.prng_key)
