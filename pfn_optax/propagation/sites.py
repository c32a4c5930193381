"""Where layers meet data in a program, where their bias is added, and what activation follows.

The rules walk over the program once. Of each value they know whether it depends on data; if not, of
which parameters it is made; if so, of which layers it is the output that no activation has met, and
of which earlier value it is a function number by number. So the output of an activation, whatever
it is made of, is the last value that is such a function of one earlier value, and not affine.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pfn_optax.partition import Layer
from pfn_optax.paths import Path
from pfn_optax.propagation.elementwise import ELEMENTWISE, STATISTIC, Axes, is_affine, moved
from pfn_optax.tracing import Constant, Equation, Program, Variable, interpret

_ADDITIVE = frozenset(
    """add add_any sub max min clamp concatenate pad select_n dynamic_update_slice scatter
    scatter-add scatter_add""".split()
)
_RANDOM = frozenset(
    """random_bits random_seed random_wrap random_unwrap random_split random_fold_in random_clone
    threefry2x32 random_gamma rng_bit_generator rng_uniform""".split()
)


@dataclass(eq=False)
class Site:
    """A place where a layer's matrix is applied to data.

    Attributes:
        paths: key paths of the matrices in the product.
        pre: the output of the linear operation, after its bias.
        pre_axes: its axes of units.
        post: the output of the activation that follows; None if none does.
        post_axes: its axes of units.
        activation: name of the last operation of that activation.
        within: the loops and rules around it, from the outside.
        equation: the linear operation.
        operand: which of its inputs is the data.
    """

    paths: tuple[Path, ...]
    pre: Variable
    pre_axes: Axes
    equation: Equation
    operand: int
    post: Variable | None = None
    post_axes: Axes = ()
    activation: str | None = None
    within: tuple[Equation, ...] = ()
    sliced: frozenset[Path] = frozenset()  # what the loops around it take a slice of in each round


class Value(NamedTuple):
    """What is known of a value.

    Attributes:
        has_data: whether it depends on data.
        is_random: whether it is drawn, and depends on no data.
        leaves: key paths of the parameters that it is made of, if no data is in it.
        matrices: those of them that are matrices of layers, and entered it as such.
        owners: sites (by number) whose output reaches it through no activation, with their axes.
        base: the earlier value that it is a function of number by number; None for itself.
        operations: what is not affine of that function.
        last: name of its last operation that is not affine.
        scaled: what it is a multiple of, where that was the last operation.
        biasless: the site of which it is a multiple, and whose bias may still come.
    """

    has_data: bool = False
    is_random: bool = False
    leaves: frozenset[Path] = frozenset()
    matrices: frozenset[Path] = frozenset()
    owners: Mapping[int, Axes] = {}
    base: Variable | None = None
    operations: frozenset[str] = frozenset()
    last: str | None = None
    scaled: Variable | None = None
    biasless: int | None = None


NOTHING, DATA = Value(), Value(has_data=True)


@dataclass(eq=False)
class SiteRules:
    """Rules for `interpret` that find the sites.

    Attributes:
        layers: the layers, by the key path of their matrix.
        takes_constants: whether arrays that the function closed over are data.
        sites: the sites in the order of execution.
        missed: by key path of a matrix, why a place where it meets data is no site.
    """

    layers: Mapping[Path, Layer]
    takes_constants: bool
    sites: list[Site] = field(default_factory=list)
    missed: dict[Path, str] = field(default_factory=dict)
    _within: tuple[Equation, ...] = ()
    _sliced: frozenset[Path] = frozenset()

    def find(self, program: Program, inputs: Sequence[Value]) -> list[Value]:
        """Walks over a program; the values of its outputs."""
        results = interpret(program, inputs, constant=self._constant, apply=self._apply)
        for variable, value in zip(program.outputs, results, strict=True):
            self._end(variable, value)
        return results

    def parameter(self, path: Path) -> Value:
        """The value of a parameter."""
        own = frozenset({path})
        return Value(leaves=own, matrices=own & self.layers.keys())

    def argument(self, variable: Variable) -> Value:
        """The value of another argument."""
        return Value(is_random=True) if _is_key(variable) else DATA

    def _constant(self, constant: Constant) -> Value:
        return DATA if self.takes_constants and constant.size > 1 else NOTHING

    def _apply(self, equation: Equation, inputs: list[Value]) -> list[Value]:
        if equation.run is None:
            raise ValueError(
                "what one device sees inside of shard_map cannot be run again from outside: tap "
                "the function that is inside of it, or shard by jit (with_sharding_constraint)."
            )
        if equation.primitive == "loop":
            return self._loop(equation, inputs)
        if equation.primitive == "branch":
            with self._outside("a branch (lax.cond)"):
                for body in equation.bodies:
                    self.find(body, [_entering(value) for value in inputs[1:]])
            return self._merged(equation, inputs)
        if equation.primitive == "rule":
            results = self._rule(equation, inputs)
        elif equation.primitive in _RANDOM:
            results = [Value(is_random=True)] * len(equation.outputs)
        else:
            results = [self._operation(equation, inputs, output) for output in equation.outputs]
        # Dropout divides by the share that is kept, which is no part of the activation.
        is_noisy = any(value.is_random for value in inputs)
        bases = [value.base for value in results]
        for variable, value in zip(equation.inputs, inputs, strict=True):
            if any(base is None or base is not value.base for base in bases):
                self._end((value.scaled if is_noisy else None) or variable, value)
        return results

    def _end(self, variable: Variable, value: Value) -> None:
        """What is not read by the same function is the output of an activation, if it is one."""
        if not value.operations - STATISTIC:
            return
        for number, axes in value.owners.items():
            site = self.sites[number]
            if site.post is None:
                site.post, site.post_axes, site.activation = variable, axes, value.last

    def _operation(self, equation: Equation, inputs: list[Value], output: Variable) -> Value:
        known = list(zip(inputs, equation.inputs, strict=True))
        data = [(value, variable) for value, variable in known if value.has_data]
        weights = [index for index, value in enumerate(inputs) if value.matrices]
        if not data:
            return _alone(equation, inputs)
        if weights:
            if (axes := _unit_axes(equation, weights[0])) is not None:
                return self._site(equation, inputs, inputs[weights[0]].matrices, axes)
            is_sum = equation.primitive in _ADDITIVE
            reason = "is added to data" if is_sum else f"meets data in `{equation.primitive}`"
            for path in frozenset().union(*(inputs[index].matrices for index in weights)):
                self.missed[path] = reason
        if equation.primitive in ELEMENTWISE:
            return self._elementwise(equation, inputs, data, output)
        value = inputs[0]
        moves = {number: moved(equation, axes) for number, axes in value.owners.items()}
        kept = {number: axes for number, axes in moves.items() if axes is not None}
        if value.operations - STATISTIC:  # `_end` makes it an activation's output
            kept = {}
        chain = value.biasless if value.biasless in kept else None
        return Value(has_data=True, owners=kept, biasless=chain)

    def _elementwise(
        self,
        equation: Equation,
        inputs: list[Value],
        data: list[tuple[Value, Variable]],
        output: Variable,
    ) -> Value:
        bases = {id(base): base for base in (value.base or variable for value, variable in data)}
        is_noisy = any(value.is_random for value in inputs)
        if len(bases) > 1 or is_noisy:
            passed = [value for value, _ in data if not value.operations - STATISTIC]
            owners = {number: axes for value in passed for number, axes in value.owners.items()}
            return Value(has_data=True, owners=owners)
        [base] = bases.values()
        operations = frozenset().union(*(value.operations for value, _ in data))
        last = next((value.last for value, _ in data if value.last), None)
        affine = is_affine(equation, len(data), is_choice_data=inputs[0].has_data)
        if not affine:
            operations, last = operations | {equation.primitive}, equation.primitive
        value = Value(
            has_data=True, owners=data[0][0].owners, base=base, operations=operations, last=last
        )
        if equation.primitive in ("mul", "div") and affine:
            value = value._replace(scaled=data[0][1])
        if operations or len(data) > 1:
            return value
        return value._replace(biasless=self._biased(equation, inputs, data[0][0], output))

    def _biased(
        self, equation: Equation, inputs: list[Value], value: Value, output: Variable
    ) -> int | None:
        """Moves a site behind the addition of its bias; the site whose bias may still come."""
        number = value.biasless
        if number is None:
            return None
        others = [index for index, other in enumerate(inputs) if not other.has_data]
        own = {path for head in self.sites[number].paths for path in self.layers[head].paths}
        own -= set(self.sites[number].paths)
        if equation.primitive in ("add", "sub") and any(inputs[i].leaves & own for i in others):
            self.sites[number].pre, self.sites[number].pre_axes = output, value.owners[number]
            return None
        is_scaled = all(equation.inputs[index].size == 1 for index in others)
        return number if is_scaled and equation.primitive not in ("add", "sub") else None

    def _site(
        self, equation: Equation, inputs: list[Value], matrices: frozenset[Path], axes: Axes
    ) -> Value:
        number, [output] = len(self.sites), equation.outputs
        if jnp.issubdtype(output.dtype, jnp.inexact):
            paths = tuple(path for path in self.layers if path in matrices)
            operand = next(index for index, value in enumerate(inputs) if value.has_data)
            self.sites.append(
                Site(
                    paths,
                    output,
                    axes,
                    equation,
                    operand,
                    within=self._within,
                    sliced=self._sliced,
                )
            )
            return Value(has_data=True, owners={number: axes}, biasless=number)
        for path in matrices:
            self.missed[path] = f"computes {output.dtype}"
        return DATA

    def _rule(self, equation: Equation, inputs: list[Value]) -> list[Value]:
        """A function of its own: looked through, and one operation as far as it is elementwise."""
        before = len(self.sites)
        posts = [(site.post, site.post_axes, site.activation) for site in self.sites]
        given = [
            value._replace(base=value.base or variable, biasless=None) if value.has_data else value
            for value, variable in zip(inputs, equation.inputs, strict=True)
        ]
        with self._inside(equation):
            [body] = equation.bodies
            results = interpret(body, given, constant=self._constant, apply=self._apply)
        for site, known in zip(self.sites, posts, strict=False):
            site.post, site.post_axes, site.activation = known
        if len(self.sites) > before:
            return [DATA if value.has_data else value for value in results]
        outer = {id(value.base) for value in given if value.has_data}
        return [
            value if not value.has_data or id(value.base) in outer else DATA for value in results
        ]

    def _loop(self, equation: Equation, inputs: list[Value]) -> list[Value]:
        start, stop = equation.num_consts, equation.num_consts + equation.num_carry
        fresh = [_entering(value) for value in inputs]
        body, is_while = equation.bodies[0], len(equation.bodies) > 1
        carry = fresh[start:stop]
        # A slice of stacked vectors, of norms or biases, is no matrix.
        slices = []
        for value, variable in zip(fresh[stop:], body.inputs[stop:], strict=True):
            if len(variable.shape) < 2:
                self.missed.update(dict.fromkeys(value.matrices, "holds stacked vectors"))
                value = value._replace(matrices=frozenset())
            slices.append(value)
        with self._aside():
            while True:
                results = self.find(body, [*fresh[:start], *carry, *slices])
                grown = [_union([a, b]) for a, b in zip(carry, results, strict=False)]
                if grown == carry:
                    break
                carry = grown
        sliced = frozenset().union(*(value.matrices for value in slices))
        with self._outside("a while-loop") if is_while else self._inside(equation, sliced):
            results = self.find(body, [*fresh[:start], *carry, *slices])
        return [_entering(value) for value in results]

    def _merged(self, equation: Equation, inputs: list[Value]) -> list[Value]:
        return [_entering(_union(inputs))] * len(equation.outputs)

    @contextlib.contextmanager
    def _inside(self, equation: Equation, sliced: frozenset[Path] = frozenset()):
        before = self._within, self._sliced
        self._within, self._sliced = (*self._within, equation), self._sliced | sliced
        yield
        self._within, self._sliced = before

    @contextlib.contextmanager
    def _aside(self):
        """Forgets what is found in the meantime."""
        kept = len(self.sites), dict(self.missed)
        yield
        del self.sites[kept[0] :]
        self.missed = kept[1]

    @contextlib.contextmanager
    def _outside(self, place: str):
        """What is found in the meantime cannot be recorded."""
        before = len(self.sites)
        yield
        for site in self.sites[before:]:
            self.missed.update(dict.fromkeys(site.paths, f"is inside of {place}"))
        del self.sites[before:]


def _alone(equation: Equation, inputs: list[Value]) -> Value:
    """Parameters, constants and random numbers among themselves."""
    value = _union(inputs)
    is_summed = equation.primitive.startswith(("reduce_", "arg", "norm"))
    return value._replace(matrices=frozenset()) if is_summed else value


def _union(values: Sequence[Value]) -> Value:
    has_data = any(value.has_data for value in values)
    if has_data:
        return DATA
    return Value(
        is_random=any(value.is_random for value in values),
        leaves=frozenset().union(*(value.leaves for value in values)),
        matrices=frozenset().union(*(value.matrices for value in values)),
    )


def _entering(value: Value) -> Value:
    """A value beyond the border of a loop."""
    return DATA if value.has_data else value


def _unit_axes(equation: Equation, index: int) -> Axes | None:
    """The axes of units of a linear operation's output, None if it is none that is known."""
    params = equation.params
    if equation.primitive == "dot_general":
        contracted, batch = params["dimension_numbers"]
        free = [
            len(equation.inputs[side].shape) - len(contracted[side]) - len(batch[side])
            for side in (0, 1)
        ]
        start = len(batch[0]) + (free[0] if index == 1 else 0)
        return tuple(range(start, start + free[index]))
    if equation.primitive == "conv_general_dilated" and index == 1:
        return (params["dimension_numbers"].out_spec[1],)
    if equation.primitive == "gather" and index == 0:
        return tuple(params["dimension_numbers"].offset_dims)
    return None


def _is_key(variable: Variable) -> bool:
    return jnp.issubdtype(variable.dtype, jax.dtypes.prng_key)
