"""A function as a flat program: the equations of its jaxpr with every call inlined.

The one place that reads jaxprs, and that knows how JAX's versions differ: until 0.10 sub-jaxprs
are closed (`ClosedJaxpr`) and a scan tells its split by `num_consts` and `num_carry`; from 0.12 on
they are plain, and the split is read off the shapes.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from pfn_optax.paths import Path, names_of

# Calls whose body sees other shapes than the caller: one device's share of an array.
_SHARDED_CALLS = frozenset({"shard_map", "xla_pmap"})

# Calls that JAX differentiates by a rule of their author's.
_RULE_CALLS = frozenset({"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"})


@dataclass(eq=False, frozen=True)
class Variable:
    """A value of the program, known by identity.

    Attributes:
        shape: its shape.
        dtype: its dtype; extended for PRNG keys.
    """

    shape: tuple[int, ...]
    dtype: Any

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(eq=False, frozen=True)
class Constant(Variable):
    """A literal, or an array that the function closed over.

    Attributes:
        value: the number or array.
    """

    value: Any


@dataclass(eq=False, frozen=True)
class Equation:
    """One primitive operation, or a loop or branch with programs of its own.

    Attributes:
        primitive: name of the primitive (`"dot_general"`); `"loop"` for scan and while, `"branch"`
            for cond, `"rule"` for a call with a derivative rule of its own that was kept, `"shard"`
            and `"unshard"` at the borders of a shard_map.
        inputs: what it reads. Of a loop: constants, carry, slices over which it runs (with their
            leading axis). Of a branch: the index, then the operands.
        outputs: what it computes. Of a loop: carry, then stacked outputs.
        params: parameters of the primitive.
        scope: the named scope it was traced in, `"Block_0/Dense_1"`; empty outside of any.
        bodies: program of a loop's body, of a while-loop's condition (second; it takes constants
            and carry as the body does), of each branch, or of what a rule is for.
        num_consts: of a loop, how many of its inputs are constants of the body.
        num_carry: of a loop, how many are carried from round to round.
        run: from the values of the inputs to those of the outputs; None at the borders of a
            shard_map.
    """

    primitive: str
    inputs: tuple[Variable, ...]
    outputs: tuple[Variable, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    scope: str = ""
    bodies: tuple["Program", ...] = ()
    num_consts: int = 0
    num_carry: int = 0
    run: Callable[..., Sequence[Any]] | None = None


@dataclass(eq=False, frozen=True)
class Program:
    """Equations in the order of execution.

    Attributes:
        inputs: its inputs.
        equations: what it does.
        outputs: variables of the above, or constants.
    """

    inputs: tuple[Variable, ...]
    equations: tuple[Equation, ...]
    outputs: tuple[Variable, ...]


@dataclass(eq=False, frozen=True)
class Traced:
    """A traced function.

    Attributes:
        program: its program, whose inputs are the leaves of all arguments in order.
        paths: key path of each input, the first name the number of the argument.
        output_tree: structure of what it returns.
    """

    program: Program
    paths: tuple[Path, ...]
    output_tree: Any


def trace(
    function: Callable[..., Any],
    *args: Any,
    axes: Mapping[str, int] | None = None,
    keep_rules: bool = False,
) -> Traced:
    """Traces a function into a flat program; nothing is computed.

    Args:
        function: any function of pytrees of arrays that JAX can trace.
        *args: its arguments: arrays, or `jax.ShapeDtypeStruct`.
        axes: names and sizes of mapped axes that its collectives (`jax.lax.pmean`) speak of.
        keep_rules: whether calls with derivative rules of their own (`jax.custom_jvp`,
            `jax.custom_vjp`) stay equations, which can be differentiated by them when run.

    Returns:
        The program and the key paths of its inputs.

    Raises:
        TypeError: if a leaf of the arguments is not an array.
        NameError: if a collective names an axis that `axes` does not.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.tracing import trace
        >>> traced = trace(lambda p, x: jnp.tanh(x @ p["w"]), {"w": jnp.ones((3, 2))}, jnp.ones(3))
        >>> traced.paths
        (('0', 'w'), ('1',))
        >>> [equation.primitive for equation in traced.program.equations]
        ['dot_general', 'tanh']
    """
    leaves = jax.tree_util.tree_leaves_with_path(args)
    paths = tuple(names_of(path) for path, _ in leaves)
    for path, (_, leaf) in zip(paths, leaves, strict=True):
        try:
            if not isinstance(leaf, jax.ShapeDtypeStruct):
                jax.typeof(leaf)
        except TypeError as error:
            raise TypeError(
                f"argument {'/'.join(path)} is a {type(leaf).__name__}, not an array: close over "
                "it (functools.partial, lambda), or pass arrays (for an NNX module: "
                "`nnx.split(model, nnx.Param, ...)`)."
            ) from error
    options: dict[str, Any] = {"axis_env": list(axes.items())} if axes else {}
    try:
        closed, shape = jax.make_jaxpr(function, return_shape=True, **options)(*args)
    except NameError as error:  # JAX's, for a collective over an axis that it does not know
        error.add_note('If this is the name of a mapped axis, give its size: axes={"batch": 8}.')
        raise
    program = _program(closed, "", keep_rules)
    return Traced(program, paths, jax.tree.structure(shape))


def _program(jaxpr: Any, scope: str, keep_rules: bool) -> Program:
    """The program of an open or closed jaxpr, its own constants made `Constant`."""
    jaxpr, consts = _opened(jaxpr)
    inputs = tuple(_variable(var) for var in jaxpr.invars)
    equations: list[Equation] = []
    constants = tuple(map(_constant, consts, jaxpr.constvars))
    outputs = _inline(jaxpr, constants, inputs, equations, scope, keep_rules)
    return Program(inputs, tuple(equations), outputs)


def _opened(jaxpr: Any) -> tuple[Any, tuple[Any, ...]]:
    """A jaxpr and its constants, closed or not."""
    return getattr(jaxpr, "jaxpr", jaxpr), tuple(getattr(jaxpr, "consts", ()))


def _inline(
    jaxpr: Any,
    constants: tuple[Variable, ...],
    inputs: tuple[Variable, ...],
    equations: list[Equation],
    scope: str,
    keep_rules: bool,
) -> tuple[Variable, ...]:
    """Appends the equations of a jaxpr on given inputs and returns its outputs."""
    known: dict[Any, Variable] = dict(zip(jaxpr.constvars, constants, strict=True))
    known |= dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Variable:
        return _constant(atom.val, atom) if hasattr(atom, "val") else known[atom]

    for eqn in jaxpr.eqns:
        own_scope = "/".join(filter(None, (scope, str(eqn.source_info.name_stack))))
        arguments = tuple(map(read, eqn.invars))
        body = _called(eqn)
        is_kept = keep_rules and eqn.primitive.name in _RULE_CALLS
        if body is None or is_kept:
            results = tuple(_variable(var) for var in eqn.outvars)
            equations.append(_equation(eqn, body, arguments, results, own_scope, keep_rules))
        else:
            results = _inline_call(eqn, body, arguments, equations, own_scope, keep_rules)
        known.update(zip(eqn.outvars, results, strict=True))
    return tuple(map(read, jaxpr.outvars))


def _called(eqn: Any) -> Any | None:
    """The body of an equation that only calls it (jit, remat, custom rules, shard_map, ...)."""
    if eqn.primitive.name in ("scan", "while", "cond", "pallas_call"):
        return None
    bodies = [
        value for value in eqn.params.values() if hasattr(value, "eqns") or hasattr(value, "jaxpr")
    ]
    if len(bodies) == 1 and len(_opened(bodies[0])[0].invars) == len(eqn.invars):
        return bodies[0]
    return None


def _inline_call(
    eqn: Any,
    body: Any,
    arguments: tuple[Variable, ...],
    equations: list[Equation],
    scope: str,
    keep_rules: bool,
) -> tuple[Variable, ...]:
    inner, consts = _opened(body)
    constants = tuple(map(_constant, consts, inner.constvars))
    if eqn.primitive.name not in _SHARDED_CALLS:
        return _inline(inner, constants, arguments, equations, scope, keep_rules)

    def convert(name: str, values: tuple[Variable, ...], like: Any) -> tuple[Variable, ...]:
        converted = tuple(_variable(var) for var in like)
        for value, result in zip(values, converted, strict=True):
            equations.append(Equation(name, (value,), (result,), scope=scope))
        return converted

    shares = convert("shard", arguments, inner.invars)
    results = _inline(inner, constants, shares, equations, scope, keep_rules)
    return convert("unshard", results, eqn.outvars)


def _equation(
    eqn: Any,
    body: Any | None,
    inputs: tuple[Variable, ...],
    outputs: tuple[Variable, ...],
    scope: str,
    keep_rules: bool,
) -> Equation:
    name, params = eqn.primitive.name, eqn.params
    run = functools.partial(_run, eqn)
    if body is not None:
        bodies = (_program(body, scope, keep_rules),)
        return Equation("rule", inputs, outputs, params, scope, bodies, run=run)
    if name == "cond":
        bodies = tuple(_program(branch, scope, keep_rules) for branch in params["branches"])
        return Equation("branch", inputs, outputs, params, scope, bodies, run=run)
    if name == "while":
        return replace(_while(params, inputs, outputs, scope, keep_rules), run=run)
    if name == "scan":
        body = _program(params["jaxpr"], scope, keep_rules)
        split = _scan_split(params, inputs, outputs, body)
        return Equation("loop", inputs, outputs, params, scope, (body,), *split, run=run)
    return Equation(name, inputs, outputs, params, scope, run=run)


def _run(eqn: Any, *values: Any) -> Sequence[Any]:
    """What an equation computes."""
    found = eqn.primitive.get_bind_params(eqn.params)
    # Until 0.9 or so, functions stand apart from parameters and come before the values.
    functions, params = found if isinstance(found, tuple) else ((), found)
    results = eqn.primitive.bind(*functions, *values, **params)
    return results if eqn.primitive.multiple_results else [results]


def _while(
    params: Any,
    inputs: tuple[Variable, ...],
    outputs: tuple[Variable, ...],
    scope: str,
    keep_rules: bool,
) -> Equation:
    """A while-loop whose body and condition both take all constants, then the state."""
    condition, body = (
        _program(params[f"{name}_jaxpr"], scope, keep_rules) for name in ("cond", "body")
    )
    first, second = params["cond_nconsts"], params["body_nconsts"]
    condition_only, body_only = condition.inputs[:first], body.inputs[:second]
    bodies = (
        replace(body, inputs=(*condition_only, *body.inputs)),
        replace(condition, inputs=(*condition_only, *body_only, *condition.inputs[first:])),
    )
    return Equation("loop", inputs, outputs, params, scope, bodies, first + second, len(outputs))


def _scan_split(
    params: Any, inputs: tuple[Variable, ...], outputs: tuple[Variable, ...], body: Program
) -> tuple[int, int]:
    """How many inputs of a scan are constants, and how many are carried."""
    if "num_carry" in params:
        return params["num_consts"], params["num_carry"]
    # Slices and stacked outputs have one axis fewer inside than outside.
    num_slices = _num_thinner(body.inputs, inputs)
    num_carry = len(body.outputs) - _num_thinner(body.outputs, outputs)
    return len(inputs) - num_carry - num_slices, num_carry


def _num_thinner(inner: tuple[Variable, ...], outer: tuple[Variable, ...]) -> int:
    return sum(len(a.shape) < len(b.shape) for a, b in zip(inner, outer, strict=True))


def _variable(var: Any) -> Variable:
    return Variable(tuple(var.aval.shape), var.aval.dtype)


def _constant(value: Any, var: Any) -> Constant:
    return Constant(tuple(var.aval.shape), var.aval.dtype, value)
