"""What the optimizer makes of the gradients: its actual steps on the batch, again and again."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pfn_optax.diagnosis.arguments import is_floating
from pfn_optax.diagnosis.case import Case, Skip
from pfn_optax.diagnosis.signal import measure_signal
from pfn_optax.paths import named_leaves
from pfn_optax.propagation.backward_taps import gradient_norm

FAIR_PROGRESS = 1e-2  # share of the loss that a step of a fair size takes off

_MOST_STEPS, _FEWEST_STEPS = 12, 4
_STEPS_SECONDS = 5.0  # what the steps may take where a gradient takes long
_MOST_IDLE = 128  # calls before an optimizer that does nothing is believed to: `MultiSteps` waits
_LATER = (10, 100, 1_000, 10_000, 100_000)  # steps ahead at which schedules are looked up


class LeafSteps(NamedTuple):
    """One step, leaf by leaf: each field f32[num_leaves].

    Attributes:
        gradient: L2 norm of the gradient.
        update: L2 norm of the update that is asked for.
        params: L2 norm of the parameters before it.
        descent: minus the scalar product of gradient and update: by how much the loss falls to
            first order.
        lost: share of the update's energy that rounding takes away: of the entries that are not
            zero and leave the parameter as it is.
        num_changed: entries of the parameters that it changes.
        num_updated: entries of the update that are not zero.
        largest: magnitude of the largest of them.
    """

    gradient: Any
    update: Any
    params: Any
    descent: Any
    lost: Any
    num_changed: Any
    num_updated: Any
    largest: Any


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Steps on one batch.

    Attributes:
        scale: factor on the updates, which is one on the learning rate.
        losses: before the first step and after each; it ends with the first that is not finite.
        steps: the calls of the optimizer that asked for an update.
        num_calls: of the optimizer, with those that only gather gradients.
        params: after the last step.
        opt_state: after the last step.
        gradients: after the last step.
    """

    scale: float
    losses: tuple[float, ...]
    steps: tuple[LeafSteps, ...]
    num_calls: int
    params: Any
    opt_state: Any
    gradients: Any

    @property
    def is_finite(self) -> bool:
        """Whether all losses are."""
        return bool(np.isfinite(self.losses).all())

    @property
    def last(self) -> float:
        """The median of the last three losses; infinite if one was not finite."""
        return float(np.median(self.losses[1:][-3:])) if self.is_finite else np.inf

    @property
    def peak(self) -> float:
        """The largest loss; infinite if one was not finite."""
        return max(self.losses) if self.is_finite else np.inf


class Training:
    """The optimizer of a case at work; runs are made when asked for, and once.

    Attributes:
        case: what is examined.
        optimizer: takes extra arguments, whether it needs them or not.
        opt_state: what it begins with.
        names: paths of the leaves, in the tree's own order.
    """

    def __init__(self, case: Case, optimizer: optax.GradientTransformation):
        """Takes the optimizer's state, or makes one."""
        self.case = case
        self.optimizer: optax.GradientTransformationExtraArgs = optax.with_extra_args_support(
            optimizer
        )
        given, params = case.setup.opt_state, case.setup.params
        self.opt_state: optax.OptState = (
            jax.jit(self.optimizer.init)(params) if given is None else given
        )
        self.names: tuple[str, ...] = tuple("/".join(path) for path, _ in named_leaves(params))
        self._runs: dict[float, Trajectory] = {}

    @cached_property
    def seconds_per_gradient(self) -> float:
        """What loss and gradient take."""
        signal, setup = self.case.once(measure_signal), self.case.setup
        start = time.perf_counter()
        jax.block_until_ready(signal.run(setup.params, setup.batch))
        return max(time.perf_counter() - start, 1e-9)

    @cached_property
    def num_steps(self) -> int:
        """As many as fit into some seconds."""
        fitting = int(_STEPS_SECONDS / self.seconds_per_gradient)
        return min(max(fitting, _FEWEST_STEPS), _MOST_STEPS)

    @property
    def steps(self) -> Trajectory:
        """The steps as they are."""
        return self.scaled(1.0)

    def scaled(self, scale: float) -> Trajectory:
        """The steps with all updates multiplied by a factor.

        Raises:
            Skip: if there is not the time.
        """
        if scale not in self._runs:
            self.case.budget.require(
                self.num_steps * self.seconds_per_gradient, "steps of the optimizer"
            )
            self._runs[scale] = self._run(scale)
        return self._runs[scale]

    @property
    def settled(self) -> Trajectory:
        """A run that stayed finite, scaled as little as possible; the start if none did."""
        runs = [run for run in self._runs.values() if run.is_finite and run.steps]
        if runs:
            return min(runs, key=lambda run: abs(np.log(run.scale)))
        signal = self.case.once(measure_signal)
        start = self.case.setup.params, self.opt_state, signal.gradients
        return Trajectory(1.0, (signal.loss,), (), 0, *start)

    @property
    def learning_rate(self) -> float | None:
        """The learning rate, as far as the state tells it or the first step shows it."""
        found = optax.tree_utils.tree_get_all_with_path(self.opt_state, "learning_rate")
        if len(found) == 1 and np.size(found[0][1]) == 1:
            return float(found[0][1])
        if not self.steps.steps:
            return None
        first = self.steps.steps[0]
        gradient, update = np.linalg.norm(first.gradient), np.linalg.norm(first.update)
        if first.descent.sum() > 0.999 * gradient * update:
            return float(update / gradient)
        # The first step of Adam and Lion has the size of the learning rate everywhere.
        if not nodes_of(self.opt_state, (optax.ScaleByAdamState, optax.ScaleByLionState)):
            return None
        largest = float(first.largest.max())
        is_even = update > 0.9 * largest * np.sqrt(first.num_updated.sum())
        return largest if is_even else None

    @property
    def progress(self) -> float:
        """Share of the loss that the best of the steps takes off, to first order."""
        run = self.steps
        falls = [
            float(step.descent.sum()) / abs(loss)
            for step, loss in zip(run.steps, run.losses, strict=False)
            if loss and np.isfinite(loss)
        ]
        return max((fall for fall in falls if np.isfinite(fall)), default=0.0)

    @cached_property
    def _norms(self) -> Callable[..., np.ndarray]:
        """Norms of the first update, f32[num_leaves], of a state and a factor on the gradients."""

        def norms(
            gradients: Any, state: Any, params: Any, batch: Any, factor: jax.Array
        ) -> jax.Array:
            gradients = jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), gradients)
            updates, _ = self.answer(gradients, state, params, batch)
            leaves = [gradient_norm(leaf) for leaf in jax.tree.leaves(updates)]
            return jnp.stack([leaf.astype(jnp.float32) for leaf in leaves])

        gradients = self.case.once(measure_signal).gradients
        rest = self.case.setup.params, self.case.setup.batch
        compiled = self.case.budget.compile(
            norms, gradients, self.opt_state, *rest, jnp.float32(1), what="looks at the optimizer"
        )
        return lambda state, factor: np.asarray(
            compiled(gradients, state, *rest, jnp.float32(factor))
        )

    @cached_property
    def later_updates(self) -> np.ndarray:
        """Norms of the update now and at later steps of schedules, f32[times, num_leaves].

        The counters in the optimizer's state are set to later steps and the first gradient is given
        to it again.
        """
        counts = optax.tree_utils.tree_get_all_with_path(self.opt_state, "count")
        counts = [int(np.max(count)) for _, count in counts if np.size(count)]
        states = [self.opt_state]
        if counts:
            states += [_with_count(self.opt_state, max(counts) + ahead) for ahead in _LATER]
        return np.nan_to_num(np.stack([self._norms(state, 1.0) for state in states]))

    @property
    def later_growth(self) -> float:
        """By how much a schedule raises the update at the most; infinite if it is zero now."""
        norms = np.linalg.norm(self.later_updates, axis=1)
        if norms[0] == 0:
            return np.inf if norms.any() else 1.0
        # The counters also correct the bias of young moments: by 3 with the usual decays.
        growth = float(norms.max() / norms[0])
        return growth if growth > 5 else 1.0

    @cached_property
    def response(self) -> float:
        """By how much the update grows where the gradient grows by 2^20; Adam's should not."""
        now, then = (np.linalg.norm(self._norms(self.opt_state, by)) for by in (1.0, 2.0**20))
        return float(then / now) if now else 1.0

    def answer(
        self, gradients: Any, state: Any, params: Any, batch: Any, value: Any = 0.0
    ) -> tuple[Any, Any]:
        """Calls the optimizer, with what those that search or probe ask for beside gradients."""
        return self.optimizer.update(
            gradients,
            state,
            params,
            value=value,
            grad=gradients,
            value_fn=lambda params: self.case.loss(params, batch),
        )

    @cached_property
    def _move(self) -> Callable[..., tuple[Any, Any, LeafSteps]]:
        def move(
            gradients: Any, state: Any, params: Any, batch: Any, value: Any, scale: Any
        ) -> tuple[Any, Any, LeafSteps]:
            updates, state = self.answer(gradients, state, params, batch, value)
            updates = jax.tree.map(lambda leaf: (leaf * scale).astype(leaf.dtype), updates)
            moved = optax.apply_updates(params, updates)
            return moved, state, _leaf_steps(gradients, updates, params, moved)

        signal, setup = self.case.once(measure_signal), self.case.setup
        args = signal.gradients, self.opt_state, setup.params, setup.batch
        numbers = jnp.float32(signal.loss), jnp.float32(1)
        return self.case.budget.compile(move, *args, *numbers, what="a step of the optimizer")

    def _run(self, scale: float) -> Trajectory:
        signal, setup = self.case.once(measure_signal), self.case.setup
        params, state, gradients = setup.params, self.opt_state, signal.gradients
        losses, steps, num_calls, num_idle = [signal.loss], [], 0, 0
        while len(steps) < self.num_steps and num_idle < _MOST_IDLE:
            numbers = jnp.float32(losses[-1]), jnp.float32(scale)
            params, state, found = self._move(gradients, state, params, setup.batch, *numbers)
            found = jax.device_get(found)
            num_calls += 1
            if not found.update.any():
                num_idle += 1
                continue
            num_idle = 0
            if found.num_changed.any():
                value, gradients, *_ = signal.run(params, setup.batch)
                losses.append(float(value))
            else:
                losses.append(losses[-1])
            steps.append(found)
            if not (np.isfinite(losses[-1]) and np.isfinite(found.update).all()):
                losses[-1] = np.nan
                break
        return Trajectory(scale, tuple(losses), tuple(steps), num_calls, params, state, gradients)


def measure_training(case: Case) -> Training:
    """Puts the optimizer to work; for `case.once`.

    Raises:
        Skip: if there is no optimizer, or loss and gradient are not finite to begin with.
    """
    if case.setup.optimizer is None:
        raise Skip("no optimizer was given: pass optimizer")
    signal = case.once(measure_signal)
    numbers = [leaf.norm for leaf in signal.gradient_numbers.values()]
    if not np.isfinite([signal.loss, *numbers]).all():
        raise Skip("loss and gradient are not finite, so there are no steps to look at")
    if not all(map(is_floating, jax.tree.leaves(case.setup.params))):
        raise Skip("the parameters hold integers, so the optimizer cannot step")
    return Training(case, case.setup.optimizer)


def nodes_of(state: Any, kinds: tuple[type, ...]) -> list[Any]:
    """Returns the parts of an optimizer's state that are of certain types."""
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kinds))
    return [node for node in nodes if isinstance(node, kinds)]


def _with_count(state: Any, count: int) -> Any:
    """The state with all of its step counters set."""

    def moved(path: Any, leaf: Any) -> Any:
        name = getattr(path[-1], "name", getattr(path[-1], "key", None)) if path else None
        return jnp.full_like(leaf, count) if name == "count" and not is_floating(leaf) else leaf

    return jax.tree_util.tree_map_with_path(moved, state)


def _leaf_steps(*trees: Any) -> LeafSteps:
    rows = [_leaf_step(*leaves) for leaves in zip(*map(jax.tree.leaves, trees), strict=True)]
    columns = zip(*rows, strict=True)
    return LeafSteps(*(jnp.stack([one.astype(jnp.float32) for one in rows]) for rows in columns))


def _leaf_step(gradient: Any, update: Any, param: Any, moved: Any) -> LeafSteps:
    wide = jnp.promote_types(update.dtype, jnp.float32)
    size = gradient_norm(update)
    unit = update.astype(wide) / jnp.where(size > 0, size, 1)
    is_lost = (update != 0) & (moved == param)
    return LeafSteps(
        gradient=gradient_norm(gradient),
        update=size,
        params=gradient_norm(param),
        descent=-size * jnp.sum((gradient.astype(wide).conj() * unit).real),
        lost=jnp.sum(jnp.where(is_lost, jnp.abs(unit) ** 2, 0)),
        num_changed=jnp.sum(moved != param),
        num_updated=jnp.sum(update != 0),
        largest=jnp.max(jnp.abs(update), initial=0),
    )
