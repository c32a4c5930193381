"""The runs of one arm: trained, diagnosed and recorded."""

import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.actions import multipliers
from experiments.claims.arms import Arm
from experiments.claims.growing import Growing
from experiments.claims.lanes import lane, over_lanes, stacked
from experiments.claims.program import Batches, Factors, Lanes, Program, matrices
from experiments.claims.rebalance import rescaled, targets
from experiments.data import Dataset
from pfn_optax import pfn
from pfn_optax.graph import layout_of
from pfn_optax.partition import Partition, block_energies, scale_blocks
from pfn_optax.state import PFNState

EMA_DECAY = 0.9


class Diagnoses:
    """PFN beside the program: the real transformation measures, and its multipliers are read."""

    def __init__(self, program: Program, arm: Arm, seeds: tuple[int, ...], params: Any):
        """Begin with the first state.

        Args:
            program: The program.
            arm: Says how the cut is found and what is done with it.
            seeds: Of the lanes.
            params: Initial parameters, with lanes.
        """
        setting, flow = program.setting, arm.flow
        self.every = max(1, round(setting.protocol.steps / flow.intervals))
        self._arm, self._seeds = arm, seeds
        options = setting.flow(flow)
        transformation = observer(setting, flow, self.every, len(seeds))
        self._observe = transformation[1]
        self.state: PFNState = transformation[0](params)
        ones = jax.tree.map(np.ones_like, jax.device_get(lane(params, 0)))
        self.layout = layout_of(
            options.get("graph"),
            ones,
            block_size=options.get("block_size"),
            num_blocks=options.get("num_blocks"),
        )
        self.sizes = np.asarray(block_energies(self.layout, self.layout.leaves(ones)))
        self._ones = jax.tree.map(jnp.ones_like, params)

    def observe(self, grads: Any, params: Any) -> None:
        """Measure one step's gradients; in a due step find the cut."""
        self.state = self._observe(grads, self.state, params)

    def read(self) -> dict[str, np.ndarray]:
        """The last diagnosis, on the host, with lanes."""
        names = ("cut", "persistence", "multipliers", "flow", "unique", "status")
        return jax.device_get({name: getattr(self.state, f"pfn_{name}") for name in names})

    def act(self, read: dict[str, np.ndarray], number: int) -> np.ndarray:
        """The multipliers that the arm makes of a diagnosis, `f32[num_lanes, num_blocks]`."""
        return np.stack(
            [
                multipliers(
                    self._arm.action,
                    self._arm.flow,
                    cut=read["cut"][i],
                    persistence=read["persistence"][i],
                    amplified=read["multipliers"][i],
                    sizes=self.sizes,
                    seed=seed,
                    diagnosis=number,
                )
                for i, seed in enumerate(self._seeds)
            ]
        )

    def factors(self, values: np.ndarray | None, mask: Any = None) -> Factors:
        """Factors of the leaves from multipliers of the blocks, at the arm's place."""
        ones = self._ones if mask is None else mask
        scaled = ones
        if values is not None:
            scaled = _spread(self.layout)(self._ones, jnp.asarray(values))
        is_before = self._arm.place == "before"
        keeps = jnp.full(len(self._seeds), self._arm.renormalize)
        return Factors(scaled if is_before else ones, ones if is_before else scaled, keeps)

    def by_layer(self, values: np.ndarray) -> np.ndarray:
        """Means over the blocks of each layer, weighted by parameters, `f64[lanes, layers]`."""
        parts = [layer.blocks for layer in self.layout.layers]
        return np.stack(
            [np.average(values[:, part], axis=1, weights=self.sizes[part]) for part in parts], 1
        )


@functools.cache
def observer(setting: Any, flow: Any, every: int, num_lanes: int) -> tuple[Any, Any]:
    """`init` and the measuring half of `update` of `pfn`, over lanes."""
    transformation = pfn(
        capacity=flow.capacity,
        every=every,
        ema_decay=EMA_DECAY,
        beta=flow.beta,
        gamma=flow.gamma,
        **setting.flow(flow),
    )

    def observe(grads, state, params):
        return transformation.update(grads, state, params)[1]  # the scaled gradients are not made

    return over_lanes(transformation.init, num_lanes), over_lanes(observe, num_lanes)


@functools.cache
def _spread(layout: Partition) -> Any:
    return jax.jit(jax.vmap(functools.partial(scale_blocks, layout)))


def train(
    program: Program,
    arm: Arm,
    *,
    rates: Sequence[float],
    seeds: tuple[int, ...],
    test: Dataset,
) -> tuple[list[dict[str, Any]], Lanes]:
    """Train the runs of an arm side by side.

    Args:
        program: For the arm's optimizer, with as many lanes.
        arm: The arm.
        rates: Learning rate of each lane.
        seeds: Seed of each lane.
        test: Where its test images measure the curves.

    Returns:
        A record of each lane, as JSON values; and the runs at their end.
    """
    start, cpu_start = time.perf_counter(), time.process_time()
    protocol = program.setting.protocol
    lanes, batches = program.init(seeds), Batches(program.setting, seeds)
    growing = Growing(program, arm, seeds) if arm.action.startswith("grow") else None
    if growing:
        lanes = growing.start(lanes)
    diagnoses = Diagnoses(program, arm, seeds, lanes.params)
    factors = diagnoses.factors(None, growing and growing.masks(lanes))
    scaled: list[dict[str, Any]] = [{} for _ in seeds]  # of the units, by rebalancing
    rate = jnp.asarray(rates, jnp.float32)
    curve: list[list[tuple[float, float]]] = []
    history: list[dict[str, Any]] = []
    points = {round((i + 1) * protocol.steps / protocol.points) for i in range(protocol.points)}
    for step in range(1, protocol.steps + 1):
        grads, lanes, loss = program.gradient(lanes, batches.at(step - 1))
        diagnoses.observe(grads, lanes.params)
        is_due = step % diagnoses.every == 0
        if is_due:
            read = diagnoses.read()
            values = diagnoses.act(read, step // diagnoses.every)
            if growing is None:
                factors = diagnoses.factors(values)
        lanes, relative = program.move(grads, lanes, factors, rate)
        if is_due:
            history.append(_diagnosis(diagnoses, read, values, relative, step))
            if arm.action == "rebalance":
                lanes, scaled = _rebalanced(program, diagnoses, read, lanes, scaled)
            if growing is not None:
                lanes = growing.grow(lanes, diagnoses.state, step // diagnoses.every)
                factors = diagnoses.factors(None, growing.masks(lanes))
        if step in points:
            curve.append(_measured(program, lanes, test, protocol.curve_images))
            if not np.isfinite(np.asarray(loss)).any():
                break  # what has left the numbers does not come back
    ends = _measured(program, lanes, test, len(test.test_labels))
    seconds = {
        "seconds": (time.perf_counter() - start) / len(seeds),
        "cpu_seconds": (time.process_time() - cpu_start) / len(seeds),
    }
    records = []
    for number in range(len(seeds)):
        own = [point[number] for point in curve]
        own += own[-1:] * (protocol.points - len(own))
        records.append(
            {
                "accuracy": ends[number][1],
                "loss": ends[number][0],
                "curve": [point[1] for point in own],
                "loss_curve": [point[0] for point in own],
                "layers": [layer.name for layer in diagnoses.layout.layers],
                "matrices": matrices(lane(lanes.params, 0)),
                "diagnoses": _of_lane(history, number),
                "widths": None if growing is None else _sizes(growing, number),
                **{name: round(value, 3) for name, value in seconds.items()},
            }
        )
    return records, lanes


def _diagnosis(
    diagnoses: Diagnoses,
    read: dict[str, np.ndarray],
    values: np.ndarray,
    relative: jax.Array,
    step: int,
) -> dict[str, Any]:
    return {
        "step": np.full(len(values), step),
        "cut": diagnoses.by_layer(read["cut"]),
        "multiplier": diagnoses.by_layer(values),
        "update": np.asarray(relative),
        "flow": read["flow"],
        "unique": read["unique"].astype(int),
        "status": read["status"],
    }


def _of_lane(history: list[dict[str, Any]], number: int) -> dict[str, list]:
    """By name a list over diagnoses, of numbers or of lists over layers."""
    if not history:
        return {}
    return {
        name: [_short(np.asarray(each[name])[number].tolist()) for each in history]
        for name in history[0]
    }


def _short(value: Any) -> Any:
    """Four digits, which is more than the seeds agree in."""
    if isinstance(value, list):
        return [_short(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _measured(
    program: Program, lanes: Lanes, test: Dataset, num_images: int
) -> list[tuple[float, float]]:
    """Loss and accuracy of each lane on the first test images."""
    images, labels = test.test_images[:num_images], test.test_labels[:num_images]
    evaluated = []
    for number in range(len(jax.tree.leaves(lanes.params)[0])):
        params, rest = lane((lanes.params, lanes.rest), number)
        evaluated.append(program.setting.network.evaluate(params, rest, images, labels))
    return evaluated


def _rebalanced(
    program: Program,
    diagnoses: Diagnoses,
    read: dict[str, np.ndarray],
    lanes: Lanes,
    before: list[dict[str, Any]],
) -> tuple[Lanes, list[dict[str, Any]]]:
    """Scale the units from where they are to where the multipliers would have them."""
    spec, made, after = program.setting.spec, [], []
    for number, old in enumerate(before):
        new: dict[str, Any] = targets(diagnoses.layout, spec, read["multipliers"][number])
        ratio = {name: value / old.get(name, 1.0) for name, value in new.items()}
        params, opt_state = lane((lanes.params, lanes.opt_state), number)
        made.append(rescaled(spec, params, opt_state, ratio))
        after.append(new)
    params, opt_state = stacked(made)
    return Lanes(params, lanes.rest, opt_state), after


def _sizes(growing: Growing, number: int) -> dict[str, int]:
    return {group.name: group.size for group in growing.specs[number].groups}
