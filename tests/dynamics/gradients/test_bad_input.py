"""What is refused, and what is reported."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax.dynamics import GradientError, GradientStatus, value_and_grad_long


def step(params, x):
    return params * x


def objective(params, x):
    return jnp.sum(x**2)


KERNEL = {"method": "kernel", "noise": 0.1, "window": 3}
PATH = {**KERNEL, "method": "path_kernel", "alpha": 0.5}
SHADOW = {"method": "shadowing", "num_unstable": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "shadow"}, "method must be one of 'backprop', .*'path_kernel', got 'shadow'"),
        ({"average": "start"}, "average must be one of 'time', 'end', got 'start'"),
        ({"method": "shadowing"}, "'shadowing' needs num_unstable: the number of positive"),
        ({"method": "kernel", "window": 3}, "'kernel' needs noise: the standard deviation"),
        ({"method": "kernel", "noise": 1.0}, "'kernel' needs window: how many steps"),
        ({**KERNEL, "method": "path_kernel"}, "'path_kernel' needs alpha: the share"),
        ({**KERNEL, "alpha": 0.5}, "'kernel' does not take alpha"),
        ({"noise": 0.5}, "'backprop' does not take noise"),
        ({"num_replicas": 5}, "'backprop' does not take num_replicas"),
        ({**SHADOW, "average": "end"}, "'shadowing' does not take average"),
        ({"method": "shadowing_unstable", "num_unstable": 1, "window": 3, "velocity": step},
         "'shadowing_unstable' does not take velocity"),
        ({**KERNEL, "window": -1}, "window must be at least 0, got -1"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({**SHADOW, "num_unstable": -1}, "num_unstable must be at least 0, got -1"),
        ({**KERNEL, "average": "end"}, "num_replicas must be at least 2, got 1"),
        ({**PATH, "alpha": 1.5}, "alpha is a share, from 0 .* got 1.5"),
        ({**PATH, "alpha": np.ones(3)}, "alpha is a share.*for a schedule, a function"),
        ({"segment_steps": 7}, "segment_steps must divide num_steps=100, got 7"),
        ({**SHADOW, "segment_steps": 100}, "joins segments, 2 at least; num_steps=100 has 1 of"),
    ],
)  # fmt: skip
def test_options(options, message):
    with pytest.raises(ValueError, match=message):
        value_and_grad_long(step, objective, **{"num_steps": 100, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": 0.0}, "noise must be positive somewhere, got 0.0"),
        ({"noise": -1.0}, "noise must be a standard deviation, at least 0, got -1.0"),
        ({"noise": float("nan")}, "at least 0, got nan"),
        ({"noise": {"x": 1.0}}, "noise must be one number or a tree like the state"),
        ({"noise": np.ones(3)}, r"has the shape \[3\], which does not spread over \[2\]"),
    ],
)
def test_noise(options, message):
    run = value_and_grad_long(step, objective, num_steps=10, **{**KERNEL, **options})
    with pytest.raises(ValueError, match=message):
        run(1.0, jnp.ones(2), key=jax.random.key(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"params": 1}, "params leaf itself is int32.*as those of jax.grad"),
        ({"params": {}}, "params has no leaves"),
        ({"params": {"a": {"b": jnp.ones(2, jnp.complex64)}}}, "leaf a.b is complex64"),
        ({"state": jnp.ones(2, int)}, "state leaf itself is int32"),
        ({"state": None}, "the state to start from, or the trajectory"),
        ({"inputs": {"u": jnp.ones(9)}}, r"input leaf u has the shape \[9\], .* must be 10"),
        ({"state": None, "trajectory": jnp.ones((10, 2))}, "first axis must be 11"),
        ({"step": lambda params, x: params * x[:1]}, r"from float32\[2\] into float32\[1\]"),
        ({"objective": lambda params, x: x}, r"one real number, got float32\[2\]"),
        ({"objective": lambda params, x: (x, x)}, "must return one number"),
        ({"options": {**SHADOW, "num_unstable": 3}}, "num_unstable=3 is more .* has 2 entries"),
        ({"options": {**SHADOW, "num_unstable": 2, "velocity": step}}, "one direction .* neutral"),
        ({"options": KERNEL, "key": None}, "needs a random key"),
        ({"options": KERNEL, "state": None, "trajectory": jnp.ones((11, 2))}, "its own traj"),
    ],
)
def test_problems(arguments, message):
    given = {"step": step, "objective": objective, "options": {}, "params": 1.0}
    given |= {"state": jnp.ones(2), "inputs": None, "trajectory": None, "key": jax.random.key(0)}
    given |= arguments
    run = value_and_grad_long(given["step"], given["objective"], num_steps=10, **given["options"])
    keywords = {name: given[name] for name in ("inputs", "trajectory", "key")}
    with pytest.raises(ValueError, match=message):
        run(given["params"], given["state"], **keywords)


def test_no_neutral_direction_in_a_driven_system():
    run = value_and_grad_long(
        lambda params, x, u: params * x + u,
        lambda params, x, u: jnp.sum(x),
        num_steps=10,
        velocity=step,
        **SHADOW,
    )
    with pytest.raises(ValueError, match="inputs drive has no neutral direction"):
        run(1.0, jnp.ones(2), inputs=jnp.ones(10))


@pytest.mark.parametrize("method", ["backprop", "kernel"])
def test_a_trajectory_that_leaves(method):
    """x' = p x^2 from 2.1: 2.1^(2^n) is infinite at n = 7, after the step numbered 6 from 0."""
    options = {**KERNEL, "noise": 1e-6} if method == "kernel" else {}
    run = value_and_grad_long(
        lambda params, x: params * x**2,
        lambda params, x: jnp.cos(x),
        num_steps=10,
        num_transient=2,
        **options,
    )
    found = jax.vmap(lambda x: run(1.0, x, key=jax.random.key(0)))(jnp.array([2.1, 0.5]))
    assert list(found.status) == [GradientStatus.NONFINITE_TRAJECTORY, GradientStatus.OK]
    assert list(found.first_nonfinite) == [6, -1]
    with pytest.raises(GradientError, match="NONFINITE_TRAJECTORY: step 6 gave NaN or inf"):
        found.raise_for_status()


def test_a_gradient_that_explodes():
    orbit = jnp.zeros(201).at[1::2].set(0.4)  # only the derivative, 2, matters
    found = value_and_grad_long(
        lambda params, x: 2 * x + params, lambda params, x: jnp.cos(x), num_steps=200
    )(0.0, trajectory=orbit)
    assert found.status == GradientStatus.NONFINITE_GRADIENT
    with pytest.raises(GradientError, match="change to 'shadowing' or 'path_kernel'"):
        found.raise_for_status()


@pytest.mark.parametrize("options", [{}, SHADOW])
def test_a_step_without_a_derivative(options):
    run = value_and_grad_long(
        lambda params, x: jnp.round(params * x), objective, num_steps=10, **options
    )
    found = run(1.5, jnp.float32([3, 2]))
    assert found.status == GradientStatus.ZERO_DERIVATIVE
    with pytest.raises(GradientError, match=r"zero everywhere, as of rounding.*method='kernel'"):
        found.raise_for_status()


def test_more_unstable_directions_than_expand():
    found = value_and_grad_long(
        lambda params, x: params * x,
        lambda params, x: jnp.sum(jnp.cos(x)),
        method="shadowing_unstable",
        num_steps=100,
        num_unstable=1,
        window=2,
    )(0.5, jnp.float32([0.3]))
    assert found.status == GradientStatus.NOT_EXPANDING
    with pytest.raises(GradientError, match="directions that do not expand"):
        found.raise_for_status()
