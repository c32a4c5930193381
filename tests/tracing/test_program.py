"""Programs against the functions they come from, by evaluating them."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from pfn_optax.tracing import Constant, interpret, trace

X = jnp.asarray([0.3, -0.7, 1.1], jnp.float32)
W = jnp.asarray([[0.2, 0.5, -0.4], [0.1, -0.3, 0.8], [0.6, 0.0, 0.9]], jnp.float32)

# What the functions below are made of, in numpy.
EVALUATE = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "neg": operator.neg,
    "max": np.maximum,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
    "lt": operator.lt,
    "gt": operator.gt,
    "copy": lambda x: x,
    "copy_p": lambda x: x,
    "pvary": lambda x: x,
    "dot_general": lambda x, y, **_: x @ y,
    "reduce_sum": lambda x, axes, **_: np.sum(x, axes),
    "convert_element_type": lambda x, new_dtype, **_: np.asarray(x).astype(new_dtype),
    "broadcast_in_dim": lambda x, shape, **_: np.broadcast_to(x, shape),
    "clamp": lambda low, x, high: np.clip(x, low, high),
    "stack": lambda *arrays, **_: np.stack(arrays),
    "concatenate": lambda *arrays, **_: np.concatenate(arrays),
    "select_n": lambda which, *cases: np.choose(np.asarray(which, int), cases),
}


def evaluate(program, inputs):
    """Runs a program in numpy, loops and branches by their definition."""

    def apply(equation, values):
        if equation.primitive == "branch":
            return evaluate(equation.bodies[int(values[0])], values[1:])
        if equation.primitive != "loop":
            params = {
                name: value
                for name, value in equation.params.items()
                if name in ("axes", "new_dtype", "shape")
            }
            return [EVALUATE[equation.primitive](*values, **params)]
        first, last = equation.num_consts, equation.num_consts + equation.num_carry
        consts, carry, slices = values[:first], values[first:last], values[last:]
        if len(equation.bodies) == 2:
            body, condition = equation.bodies
            while evaluate(condition, [*consts, *carry])[0]:
                carry = evaluate(body, [*consts, *carry])
            return carry
        stacked = []
        for index in range(equation.params["length"]):
            results = evaluate(equation.bodies[0], [*consts, *carry, *(s[index] for s in slices)])
            carry = results[: len(carry)]
            stacked.append(results[len(carry) :])
        return [*carry, *map(np.stack, zip(*stacked, strict=True))]

    return interpret(program, inputs, constant=lambda c: np.asarray(c.value), apply=apply)


@jax.custom_vjp
def straight_through(x):
    return jnp.sin(x)


straight_through.defvjp(lambda x: (jnp.sin(x), None), lambda _, grad: (grad,))


@jax.custom_jvp
def own_derivative(x):
    return jnp.cos(x) * 2


own_derivative.defjvp(lambda primals, tangents: (own_derivative(*primals), tangents[0]))


def scanned(w, x):
    def body(carry, now):
        state, count = carry
        return (jnp.tanh(w @ state + now), count + 1), state.sum()

    (state, count), sums = lax.scan(body, (x, 0), jnp.stack([x, 2 * x, 3 * x]))
    return state, count, sums


def looped(w, x):
    def condition(carry):
        return (carry[1] + x).sum() < 40.0

    return lax.while_loop(
        condition, lambda carry: (w @ carry[0] * 0.5, carry[1] + 1 + w.sum(0)), (x, x)
    )


def sharded(w, x):
    mesh = jax.make_mesh((1,), ("data",))
    spec = jax.sharding.PartitionSpec()
    return jax.shard_map(lambda w, x: w @ x, mesh=mesh, in_specs=(spec, spec), out_specs=spec)(w, x)


FUNCTIONS = {
    "plain": lambda w, x: jnp.tanh(w @ x) + 1.0,
    "jit": jax.jit(lambda w, x: jax.jit(jnp.sin)(w @ x)),
    "remat": lambda w, x: jax.checkpoint(lambda x: jnp.sin(w @ x))(x),
    "custom_vjp": lambda w, x: straight_through(w @ x),
    "custom_jvp": lambda w, x: own_derivative(w @ x) + jax.nn.relu(x),
    "closed over": lambda w, x: x * np.asarray([1.0, 2.0, 3.0], np.float32),
    "cond": lambda w, x: lax.cond(x.sum() > 0, lambda x: jnp.sin(x), lambda x: w @ x, x),
    "switch": lambda w, x: lax.switch(jnp.int32(1), [jnp.sin, lambda x: w @ x, jnp.cos], x),
    "scan": scanned,
    "scan without slices": lambda w, x: lax.fori_loop(0, 3, lambda _, c: jnp.tanh(w @ c), x),
    "scan without carry": lambda w, x: lax.scan(lambda _, row: (None, row * x), None, w)[1],
    "while": looped,
    "vmap": lambda w, x: jax.vmap(lambda row: jnp.sin(row) * x)(w),
    "nested": lambda w, x: jax.jit(jax.checkpoint(functools.partial(scanned, w)))(x),
    "several outputs": lambda w, x: {"a": x, "b": (w.sum(), 2.0)},
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_equations_run_on_arrays_and_while_tracing(name):
    traced = trace(FUNCTIONS[name], W, X)

    def run(*values):
        return interpret(
            traced.program,
            values,
            constant=lambda constant: constant.value,
            apply=lambda equation, inputs: equation.run(*inputs),
        )

    expected = jax.tree.leaves(FUNCTIONS[name](W, X))
    for results in (run(W, X), jax.jit(run)(W, X)):
        for result, wanted in zip(results, expected, strict=True):
            np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_program_computes_what_its_function_does(name):
    function = FUNCTIONS[name]
    traced = trace(function, W, X)
    results = evaluate(traced.program, [np.asarray(W), np.asarray(X)])
    expected = function(W, X)
    assert traced.output_tree == jax.tree.structure(expected)
    for result, wanted in zip(results, jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_shapes_are_those_of_the_values(name):
    """Every variable has the shape of what is computed for it, inside of loops as well."""

    def check(program):
        for equation in program.equations:
            assert all(isinstance(v.shape, tuple) for v in (*equation.inputs, *equation.outputs))
            for body in equation.bodies:
                check(body)
                if equation.primitive == "loop":
                    first, last = equation.num_consts, equation.num_consts + equation.num_carry
                    outer = [v.shape for v in equation.inputs]
                    inner = [v.shape for v in body.inputs]
                    assert inner[:last] == outer[:last]
                    assert inner[last:] == [shape[1:] for shape in outer[last:]]
                    assert first <= last <= len(outer)

    check(trace(FUNCTIONS[name], W, X).program)


def test_calls_leave_no_trace():
    primitives = {e.primitive for e in trace(FUNCTIONS["nested"], W, X).program.equations}
    assert primitives.isdisjoint({"jit", "pjit", "checkpoint", "remat", "remat2"})


def test_shards_are_marked():
    with jax.set_mesh(jax.make_mesh((1,), ("data",))):
        equations = trace(sharded, W, X).program.equations
    names = [equation.primitive for equation in equations]
    assert names.count("shard") == 2
    assert names.count("unshard") == 1
    assert "dot_general" in names


def test_named_axes_are_given():
    def mean(x):
        return lax.pmean(x, "batch")

    assert trace(mean, X, axes={"batch": 4}).program.outputs
    with pytest.raises(NameError, match="batch") as raised:
        trace(mean, X)
    assert 'axes={"batch": 8}' in " ".join(raised.value.__notes__)


def test_scopes_are_kept():
    def function(x):
        with jax.named_scope("outer"):
            return jax.jit(jax.named_call(jnp.sin, name="inner"))(x)

    [equation] = trace(function, X).program.equations
    assert equation.scope.startswith("outer")
    assert "inner" in equation.scope


def test_paths_name_arguments_and_leaves():
    traced = trace(lambda p, xs: p["a"] + xs[0], {"a": X}, [X, X])
    assert traced.paths == (("0", "a"), ("1", "0"), ("1", "1"))


def test_shapes_are_enough():
    abstract = jax.ShapeDtypeStruct((3,), jnp.float32)
    [equation] = trace(jnp.sin, abstract).program.equations
    assert equation.outputs[0].shape == (3,)
    assert equation.outputs[0].size == 3


def test_constants_hold_their_value():
    constant = np.asarray([1.0, 2.0, 3.0], np.float32)
    [equation] = trace(lambda x: x * constant, X).program.equations
    [found] = [v for v in equation.inputs if isinstance(v, Constant)]
    np.testing.assert_array_equal(found.value, constant)


def test_an_argument_that_is_no_array_is_named():
    with pytest.raises(TypeError, match="argument 0/name is a str, not an array: close over it"):
        trace(lambda p: p["x"], {"x": X, "name": "resnet"})
