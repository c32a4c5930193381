"""Random models together with the graph they must have, which is read off how they were made.

A model is a list of instructions; each computes a new value from earlier ones, value 0 being the
data. The expected graph has a node per value, and an identity edge per value read.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from hypothesis import strategies as st

from tests.graph.isomorphism import Triple

Kind = Literal["layer", "pointwise", "vector", "add", "multiply", "concatenate"]
Wrapper = Literal["none", "jit", "remat", "custom_vjp", "vmap", "scan"]

POINTWISE: tuple[Callable[[jax.Array], jax.Array], ...] = (
    jax.nn.relu,
    jax.nn.gelu,
    jax.nn.softmax,
    jnp.tanh,
    lambda x: (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5),
    lambda x: 2.0 * x + 1.0,
    lambda x: jnp.sort(x, axis=-1)[..., ::-1],
    lambda x: x.T.reshape(-1).reshape(x.T.shape).T,
    lambda x: x.astype(jnp.bfloat16).astype(jnp.float32),
)
KERNEL: tuple[Callable[[jax.Array], jax.Array], ...] = (
    lambda w: w,
    lambda w: w / jnp.linalg.norm(w, axis=0),
    lambda w: jnp.tanh(w - w.mean(0)),
)
VECTOR: tuple[Callable[[jax.Array, jax.Array], jax.Array], ...] = (
    lambda x, vector: x * vector,
    lambda x, vector: x + vector,
    lambda x, vector: x / (1.0 + vector**2),
)


@dataclass(frozen=True)
class Instruction:
    """One step of a model.

    Attributes:
        kind: what it does.
        reads: numbers of the values it reads.
        module: name of the module whose parameters it uses, if any.
        rule: which of the functions of its kind.
    """

    kind: Kind
    reads: tuple[int, ...]
    module: str = ""
    rule: int = 0

    def __call__(self, params: dict, *values: jax.Array) -> jax.Array:
        if self.kind == "layer":
            return self._layer(params[self.module], KERNEL[self.rule], *values)
        if self.kind == "pointwise":
            return POINTWISE[self.rule](*values)
        if self.kind == "vector":
            return VECTOR[self.rule](*values, params[self.module]["vector"])
        if self.kind == "concatenate":
            return jnp.concatenate(values, axis=-1)
        x, y = values
        return x + y if self.kind == "add" else x * jax.nn.sigmoid(y)

    @staticmethod
    def _layer(module: dict, kernel_of: Callable, x: jax.Array) -> jax.Array:
        x = x @ kernel_of(module["kernel"])
        return x + module["bias"] if "bias" in module else x


@dataclass(frozen=True)
class RandomModel:
    """A model and what its graph must be.

    Attributes:
        params: shapes of its parameters.
        args: shapes of its input and its targets.
        segments: wrapper and instructions of each stretch of the model.
        heads: (value, module) pairs; the output is the sum of these layers.
        decayed: modules whose kernels are in an L2 term of the loss.
    """

    params: dict[str, dict[str, jax.ShapeDtypeStruct]]
    args: tuple[jax.ShapeDtypeStruct, ...]
    segments: tuple[tuple[Wrapper, tuple[Instruction, ...]], ...]
    heads: tuple[tuple[int, str], ...]
    decayed: tuple[str, ...]

    def loss(self, params: dict, x: jax.Array, targets: jax.Array) -> jax.Array:
        values = (x,)
        for wrapper, instructions in self.segments:
            values = _wrapped(wrapper, functools.partial(_run, instructions))(params, values)
        outputs = sum(values[value] @ params[module]["kernel"] for value, module in self.heads)
        decay = sum(jnp.sum(params[module]["kernel"] ** 2) for module in self.decayed)
        return jnp.square(outputs - targets).mean() + 1e-4 * decay

    @functools.cached_property
    def instructions(self) -> tuple[Instruction, ...]:
        return tuple(step for _, instructions in self.segments for step in instructions)

    @property
    def expected(self) -> list[Triple]:
        """Its graph, one node per value, not contracted."""
        heads = [("loss", _node(value), module) for value, module in self.heads]
        return heads + [
            (_node(number), _node(read), step.module if step.kind == "layer" else None)
            for number, step in enumerate(self.instructions, 1)
            for read in step.reads
        ]

    @property
    def unreached(self) -> set[str]:
        """Paths of the parameters on which the loss does not depend."""
        live = {value for value, _ in self.heads}
        for number, step in reversed(list(enumerate(self.instructions, 1))):
            live |= set(step.reads) if number in live else set()
        used = {step.module for number, step in enumerate(self.instructions, 1) if number in live}
        used |= {module for _, module in self.heads}
        return {
            f"{module}/{leaf}"
            for module, leaves in self.params.items()
            for leaf in leaves
            if module not in used and not (leaf == "kernel" and module in self.decayed)
        }


def _node(value: int) -> str:
    return f"value {value}" if value else "data"


def _run(
    instructions: Sequence[Instruction], params: dict, values: tuple[jax.Array, ...]
) -> tuple[jax.Array, ...]:
    for step in instructions:
        values = (*values, step(params, *(values[read] for read in step.reads)))
    return values


def _wrapped(wrapper: Wrapper, function: Callable[..., Any]) -> Callable[..., Any]:
    if wrapper == "jit":
        return jax.jit(function)
    if wrapper == "remat":
        return jax.checkpoint(function)
    if wrapper == "custom_vjp":
        opaque_to_grad = jax.custom_vjp(function)
        # Never called: only the loss itself is traced.
        opaque_to_grad.defvjp(lambda *args: (function(*args), args), lambda args, _: args)
        return opaque_to_grad
    if wrapper == "vmap":
        # One example at a time, with a batch axis of one so that the same instructions fit.
        def single(params, values):
            results = function(params, tuple(value[None] for value in values))
            return tuple(result[0] for result in results)

        return jax.vmap(single, in_axes=(None, 0))
    if wrapper == "scan":

        def single_round(params, values):
            rounds = tuple(value[None] for value in values)
            _, results = jax.lax.scan(lambda _, now: (None, function(params, now)), None, rounds)
            return tuple(result[0] for result in results)

        return single_round
    return function


@st.composite
def random_models(draw: st.DrawFn, max_steps: int = 6) -> RandomModel:
    """Draws a model; every value may be read again, so that some branches end nowhere."""
    params: dict[str, dict[str, jax.ShapeDtypeStruct]] = {}
    widths = [draw(st.sampled_from((2, 3)))]

    def new_layer(fan_in: int, fan_out: int, *, with_bias: bool) -> str:
        name = f"layer{len(params)}"
        params[name] = {"kernel": _shape(fan_in, fan_out)}
        if with_bias:
            params[name]["bias"] = _shape(fan_out)
        return name

    def layer(value: int) -> Instruction:
        fitting = [
            name
            for name, leaves in params.items()
            if "kernel" in leaves and leaves["kernel"].shape[0] == widths[value]
        ]
        tied = fitting and draw(st.integers(0, 2)) == 0
        if tied:
            name = draw(st.sampled_from(fitting))
        else:
            name = new_layer(
                widths[value], draw(st.sampled_from((2, 3))), with_bias=draw(st.booleans())
            )
        widths.append(params[name]["kernel"].shape[1])
        rule = draw(st.integers(0, len(KERNEL) - 1))
        return Instruction("layer", (value,), name, rule)

    def vector(value: int) -> Instruction:
        name = f"vector{len(params)}"
        params[name] = {"vector": _shape(widths[value])}
        widths.append(widths[value])
        return Instruction("vector", (value,), name, draw(st.integers(0, len(VECTOR) - 1)))

    def pointwise(value: int) -> Instruction:
        widths.append(widths[value])
        rule = draw(st.integers(0, len(POINTWISE) - 1))
        return Instruction("pointwise", (value,), rule=rule)

    def joined(kind: Kind, value: int) -> Instruction:
        if kind == "concatenate":
            other = draw(st.integers(first, len(widths) - 1))
            widths.append(widths[value] + widths[other])
        else:
            equal = [n for n in range(first, len(widths)) if widths[n] == widths[value]]
            other = draw(st.sampled_from([n for n in equal if n != value] or equal))
            widths.append(widths[value])
        return Instruction(kind, (value, other))

    makers: dict[str, Callable[[int], Instruction]] = {
        "layer": layer,
        "vector": vector,
        "pointwise": pointwise,
        "add": functools.partial(joined, "add"),
        "multiply": functools.partial(joined, "multiply"),
        "concatenate": functools.partial(joined, "concatenate"),
    }
    # Layers twice as often as the rest: joins need something to join.
    # Mostly layers and joins, of recent values: or most models would be chains, and much would die.
    kinds = st.sampled_from(("layer", "layer", "add", *makers))
    # An identity to the data leaves little to cut: most models read the data once, by a stem.
    first = draw(st.sampled_from((0, 1, 1)))
    segments = [("none", (layer(0),))]
    for _ in range(draw(st.integers(2, 3))):
        steps = []
        for _ in range(draw(st.integers(3, max_steps))):
            recent = st.integers(max(first, len(widths) - 3), len(widths) - 1)
            steps.append(makers[draw(kinds)](draw(recent)))
        wrapper = draw(st.sampled_from(get_args(Wrapper)))
        segments.append((wrapper, tuple(steps)))
    last = len(widths) - 1
    ends = [last, *draw(st.lists(st.integers(first, last), max_size=2))]
    heads = tuple((value, new_layer(widths[value], 1, with_bias=False)) for value in ends)
    kernels = [name for name, leaves in params.items() if "kernel" in leaves]
    decayed = draw(st.lists(st.sampled_from(kernels), unique=True, max_size=3))
    return RandomModel(
        params, (_shape(4, widths[0]), _shape(4, 1)), tuple(segments), heads, tuple(decayed)
    )


def _shape(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)
