"""Gradients of long-time averages, by five methods with one face."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pfn_optax.dynamics.gradients import batch_means, segments
from pfn_optax.dynamics.gradients.backprop import backprop
from pfn_optax.dynamics.gradients.ensemble import Average, Ensemble, estimate, objective_weight
from pfn_optax.dynamics.gradients.kernel import hides_parameters, kernel
from pfn_optax.dynamics.gradients.noise import noise_scale
from pfn_optax.dynamics.gradients.options import Method, Options
from pfn_optax.dynamics.gradients.path_kernel import path_kernel
from pfn_optax.dynamics.gradients.result import (
    Estimate,
    GradientStatus,
    LongGradient,
    status_of,
)
from pfn_optax.dynamics.gradients.segments import Plan
from pfn_optax.dynamics.gradients.shadowing import shadowing
from pfn_optax.dynamics.gradients.system import System, flat_system
from pfn_optax.dynamics.gradients.unstable import shadowing_unstable
from pfn_optax.dynamics.steps import Step

LONGEST_SHADOWING_SEGMENT = 20
"""Steps between two orthonormalisations, by default."""


def value_and_grad_long(
    step: Step,
    objective: Callable[..., jax.Array],
    *,
    num_steps: int,
    method: Method = "backprop",
    num_transient: int = 0,
    segment_steps: int | None = None,
    num_batches: int = 10,
    average: Average = "time",
    num_unstable: int | None = None,
    velocity: Callable[[Any, Any], Any] | None = None,
    noise: Any = None,
    window: int | None = None,
    alpha: Any = None,
    num_replicas: int = 1,
) -> Callable[..., LongGradient]:
    r"""Makes a function that estimates a long-time average and its gradient.

    .. math:: J(g) = \frac{1}{N} \sum_{n=1}^{N} \varphi(g, x_n), \quad x_{n+1} = f(g, x_n)

    - `"backprop"`: exact for what contracts; with a positive exponent it grows like
      exp(exponent x steps), and so does its variance.
    - `"shadowing"`: chaotic maps, flows and RNNs. Assumes hyperbolicity and the step's derivatives.
      Variance like 1 / N. It leaves out the unstable contribution, which is small where few of many
      directions expand and where objective and parameters have little to do with these.
    - `"shadowing_unstable"`: chaotic maps, with that contribution. Assumes second derivatives and
      the exact number of unstable directions. Bias only by the window, variance like W / N.
    - `"kernel"`: anything noisy; needs no derivative by the state. Assumes that parameters act only
      where there is noise. Bias only by the window, variance like W |f_g|^2 / (noise^2 N).
    - `"path_kernel"`: anything noisy. Assumes the step's derivatives. Bias only by the window, at
      any `alpha`; variance from that of backpropagation (0) to that of the kernel (1).

    Cost is linear in the number of steps; kept are the starts of segments and one number per step.
    Parameters, objective and inputs may be anything: the gradient is the tree that `jax.grad`
    returns, so an optimizer takes it as it is.

    Args:
        step: (params, state) -> state, or (params, state, input) -> state; of a flow, made with
            `rk4` on `lambda state: field(params, state)`.
        objective: (params, state) -> f[], or (params, state, input) -> f[] if there are inputs, of
            the state after the step with that input.
        num_steps: N.
        method: see above.
        num_transient: steps before, which are not averaged.
        segment_steps: steps between the states that are kept, a divisor of `num_steps`. Default:
            the largest divisor up to its root; with shadowing, where it is the interval of
            orthonormalisation too, up to 20.
        num_batches: number of batches for the standard error, each long against correlations.
        average: over `"time"`, or the objective at the `"end"` alone, as of a stack of layers or a
            sequence with one label.
        num_unstable: number of positive exponents. `"shadowing"` takes more as well, and 0 in a
            map that contracts.
        velocity: of a flow, (params, state) -> tree like the state: the neutral direction, which
            `"shadowing"` must know of. Without it the step is taken to be a map.
        noise: standard deviation of the Gaussian noise that is added to the state after every step:
            a number, a tree like the state, or a function of (params, state), whose derivatives
            count.
        window: W, how many steps after a push the objective still feels it. Bias falls with it
            like the correlations, variance grows.
        alpha: share of every perturbation that the noise tells, in [0, 1], or a function of the
            number of the step. To tame an exponent, more than 1 - exp(-exponent per step).
        num_replicas: independent noisy copies, run side by side.

    Returns:
        A compiled function `(params, state, *, inputs=None, trajectory=None, key=None)` that
        returns a `LongGradient`. `inputs` has one entry per step, those of the transient first;
        `trajectory` (with `state` None) are stored states to follow, the first one included, where
        the step cannot be trusted to produce them; `key` is that of the noise, which must be given,
        and of shadowing's initial directions. It can be vmapped over all of them: of sequences in a
        batch, map over the batch rather than make it one state.

    Raises:
        ValueError: if an option is missing, out of range or not the method's; from the function, if
            the problem has a wrong structure, shape or dtype.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pfn_optax.dynamics import value_and_grad_long
        >>> def step(params, x):
        ...     return params["a"] * x + params["g"]
        >>> params = {"a": jnp.float32(0.5), "g": jnp.float32(0.3)}
        >>> mean = value_and_grad_long(
        ...     step, lambda params, x: x, method="kernel", noise=1.0, window=20, num_steps=10_000
        ... )
        >>> found = mean(params, jnp.float32(0), key=jax.random.key(0))
        >>> error = found.gradient["g"] - 1 / (1 - 0.5)
        >>> print(abs(error) < 3 * found.standard_error["g"], found.standard_error["g"] < 0.2)
        True True

    Reference:
        Ni & Talnikar 2019, "Adjoint sensitivity analysis on chaotic dynamical systems by
        Non-Intrusive Least Squares Adjoint Shadowing (NILSAS)"; Ni 2022, "Fast adjoint algorithm
        for linear responses of hyperbolic chaos"; Ni 2023, "No-propagate algorithm for linear
        responses of random chaotic systems"; Ni 2025, "Path-kernel".
    """
    options = Options(
        method,
        num_steps,
        num_transient,
        segment_steps,
        num_batches,
        average,
        num_unstable,
        velocity,
        noise,
        window,
        alpha,
        num_replicas,
    )
    is_shadowing = method.startswith("shadowing")
    plan = segments.plan_segments(
        num_steps, segment_steps, num_batches, LONGEST_SHADOWING_SEGMENT if is_shadowing else None
    )
    if average == "end":
        plan = plan._replace(num_batches=1)
    if is_shadowing and plan.num_segments < 2:
        raise ValueError(
            f"shadowing joins segments, 2 at least; num_steps={num_steps} has "
            f"{plan.num_segments} of {plan.segment_steps}: lower segment_steps."
        )

    @jax.jit
    def value_and_grad(
        params: Any,
        state: Any = None,
        *,
        inputs: Any = None,
        trajectory: Any = None,
        key: jax.Array | None = None,
    ) -> LongGradient:
        params = jax.tree.map(jnp.asarray, params)
        total = num_steps + num_transient
        system = flat_system(step, objective, velocity, params, state, inputs, trajectory, total)
        if is_shadowing:
            _require_shadowable(options, system, inputs)
        early = jax.tree.map(lambda leaf: leaf[:num_transient], system.drives)
        late = segments.cut(jax.tree.map(lambda leaf: leaf[num_transient:], system.drives), plan)
        if noise is not None:
            _require_noise_possible(trajectory, key)
            found = _noisy(options, system, plan, params, (early, late), key)
        else:
            found = _noiseless(options, system, plan, params, (early, late), key)
        return _result(options, system, plan, found)

    return value_and_grad


def _noiseless(
    options: Options, system: System, plan: Plan, params: Any, drives: Any, key: Any
) -> Estimate:
    start, bad = segments.warm_up(
        lambda x, drive, _: system.advance(params, x, drive),
        system.start,
        drives[0],
        options.num_transient,
    )
    problem = (system, params, start, drives[1], plan)
    key = jax.random.key(0) if key is None else key
    if options.method == "shadowing":
        assert options.num_unstable is not None
        found = shadowing(*problem, key, options.num_unstable)
    elif options.method == "shadowing_unstable":
        assert options.num_unstable is not None
        assert options.window is not None
        found = shadowing_unstable(*problem, key, options.num_unstable, options.window)
    else:
        found = backprop(*problem, objective_weight(options.average, plan.num_steps))
    first = jnp.where(
        bad < options.num_transient, bad, options.num_transient + found.first_nonfinite
    )
    return found._replace(first_nonfinite=first)


def _noisy(
    options: Options, system: System, plan: Plan, params: Any, drives: Any, key: Any
) -> Estimate:
    num_groups = options.num_groups
    scale = noise_scale(options.noise, system)
    ensemble = Ensemble(system, scale, plan, options.num_replicas // num_groups)
    weight = objective_weight(options.average, plan.num_steps)

    def second(*args):
        if options.method == "kernel":
            return kernel(*args, weight=weight)
        return path_kernel(*args, weight=weight, alpha=options.alpha_of)

    window = plan.num_steps - 1 if options.window is None else options.window
    found = estimate(
        second,
        ensemble,
        params,
        drives,
        key=key,
        num_groups=num_groups,
        num_transient=options.num_transient,
        window=min(window, plan.num_steps - 1),
        average=options.average,
    )
    if options.method == "kernel":
        last = jax.tree.map(lambda leaf: leaf[-1, -1], drives[1])
        hides = hides_parameters(ensemble, params, found.state, last, key)
        found = found._replace(
            suspicion=jnp.where(hides, jnp.int32(GradientStatus.HIDDEN_PARAMETERS), found.suspicion)
        )
    return found


def _result(options: Options, system: System, plan: Plan, found: Estimate) -> LongGradient:
    total = options.num_steps + options.num_transient
    values = found.values
    if options.average == "end":
        values = values[:, -1:, -1:]
        plan = plan._replace(num_segments=1, segment_steps=1)
    first = found.first_nonfinite
    return LongGradient(
        value=values.mean(),
        gradient=found.gradient,
        standard_error=found.standard_error,
        value_error=batch_means.error_of_mean(values, plan),
        exponents=found.exponents,
        state=system.unravel(found.state),
        status=status_of(found, total),
        first_nonfinite=jnp.where(first < total, first, -1),
    )


def _require_shadowable(options: Options, system: System, inputs: Any) -> None:
    num_followed = (options.num_unstable or 0) + (options.velocity is not None)
    if num_followed > system.start.size:
        raise ValueError(
            f"num_unstable={options.num_unstable} is more than the directions there are: the state "
            f"has {system.start.size} entries"
            + (", one direction of which is neutral." if options.velocity is not None else ".")
        )
    if options.velocity is not None and inputs is not None:
        raise ValueError("a system that inputs drive has no neutral direction: leave velocity out.")


def _require_noise_possible(trajectory: Any, key: Any) -> None:
    if trajectory is not None:
        raise ValueError(
            "a method with noise draws its own trajectories: give the state to start from."
        )
    if key is None:
        raise ValueError("a method with noise needs a random key, another one every time.")
