"""Matching networks: assignment solvers, and weight matching beside a plain NumPy loop.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.alignment [--json PATH] [--repeats 5]

- The assignment problem on standard normal profits: `optax.assignment.hungarian_algorithm`,
  compiled, and `scipy.optimize.linear_sum_assignment`.
- `align(method="coordinate")` on networks of the sizes of ResNet-20 and VGG-16, beside weight
  matching as git-re-basin writes it down (every product of every visit computed anew, until a round
  without gain) with the same order of the groups. Both must reach the same objective. Two kinds of
  pairs: independent weights, which match nowhere and take many rounds, and a permuted copy with
  noise.

Interleaved, medians of CPU seconds; run it with OPENBLAS_NUM_THREADS=1, so that they are time.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import tyro
from scipy.optimize import linear_sum_assignment

from benchmarks import tables
from benchmarks.records import environment, write
from pfn_optax.align import align
from pfn_optax.paths import named_leaves
from pfn_optax.units import Group, Member, UnitSpec

SIZES = (64, 128, 256, 512, 1024, 2048)
BUDGET = 20.0  # seconds, for the turns of one comparison
NOISE = 0.5  # standard deviations of the weights


@dataclass(frozen=True)
class Config:
    """What to time.

    Attributes:
        repeats: timed calls of each; the median counts.
        json: where to write the numbers, if anywhere.
    """

    repeats: int = 5
    json: Path | None = None


class Layer(NamedTuple):
    """A convolution, with a batch norm behind it where its outputs have a group."""

    name: str
    reads: str | None
    writes: str | None
    shape: tuple[int, int, int, int]


def vgg16() -> list[Layer]:
    """VGG-16 for CIFAR: thirteen convolutions and a linear head."""
    widths = [64, 64, 128, 128, *[256] * 3, *[512] * 6]
    layers, before, source = [], 3, None
    for number, width in enumerate(widths):
        name = f"conv{number}"
        layers.append(Layer(name, source, name, (3, 3, before, width)))
        before, source = width, name
    return [*layers, Layer("head", source, None, (1, 1, before, 10))]


def resnet20(width: int) -> list[Layer]:
    """ResNet-20 for CIFAR with projections on the shortcuts that change the width."""
    layers, before, stream = [Layer("stem", None, "stem", (3, 3, 3, width))], width, "stem"
    for stage in range(3):
        size = width * 2**stage
        for block in range(3):
            name, source = f"block{stage}_{block}", stream
            if size != before:
                stream = f"stage{stage}"
                layers.append(Layer(f"{name}_skip", source, stream, (1, 1, before, size)))
            layers += [
                Layer(f"{name}_0", source, f"{name}_0", (3, 3, before, size)),
                Layer(f"{name}_1", f"{name}_0", stream, (3, 3, size, size)),
            ]
            before = size
    return [*layers, Layer("head", stream, None, (1, 1, before, 10))]


NETWORKS: dict[str, Callable[[], list[Layer]]] = {
    "ResNet-20": lambda: resnet20(16),
    "ResNet-20, 4 times as wide": lambda: resnet20(64),
    "VGG-16": vgg16,
}


def spec_of(layers: Sequence[Layer]) -> UnitSpec:
    """The spec of convolutions with batch norms."""
    members: dict[str, list[Member]] = {}
    sizes, leaves = {}, []
    for name, reads, writes, shape in layers:
        leaves.append(((name, "kernel"), shape))
        if reads:
            members[reads].append(Member((name, "kernel"), 2))
        if writes:
            sizes[writes] = shape[3]
            members.setdefault(writes, []).append(Member((name, "kernel"), 3))
            for vector in ("bias", "mean", "scale", "var"):
                leaves.append(((name, vector), shape[3:]))
                members[writes].append(Member((name, vector), 0))
    groups = tuple(Group(name, sizes[name], tuple(own)) for name, own in members.items())
    return UnitSpec(groups, tuple(leaves))


def draw(spec: UnitSpec, seed: int) -> dict[str, Any]:
    """Random weights of the usual scale."""
    source = np.random.default_rng(seed)
    params: dict[str, Any] = {}
    for (name, leaf), shape in spec.leaves:
        scale = np.prod(shape[:-1]) ** -0.5 if len(shape) > 1 else 0.1
        values = scale * source.standard_normal(shape, np.float32)
        params.setdefault(name, {})[leaf] = values
    return params


def pairs(spec: UnitSpec) -> dict[str, tuple[Any, Any]]:
    """The pairs to be matched."""
    a, other = draw(spec, 0), draw(spec, 1)
    source = np.random.default_rng(2)
    planted = spec.permute(a, {group.name: source.permutation(group.size) for group in spec.groups})
    noisy = jax.tree.map(lambda x, y: x + np.float32(NOISE) * y, planted, other)
    return {"independent": (a, other), "permuted, with noise": (a, noisy)}


def plain_weight_matching(spec: UnitSpec, a: Any, b: Any) -> tuple[dict[str, np.ndarray], int]:
    """Weight matching as in git-re-basin, in NumPy and scipy.

    Returns:
        The permutations, and the number of rounds.
    """
    left, right = dict(named_leaves(a)), dict(named_leaves(b))
    axes = {(m.path, m.axis): group.name for group in spec.groups for m in group.members}
    found = {group.name: np.arange(group.size) for group in spec.groups}
    source = np.random.default_rng([0, 0])
    num_rounds, has_gained = 0, True
    while has_gained:
        num_rounds, has_gained = num_rounds + 1, False
        for number in source.permutation(len(spec.groups)):
            group = spec.groups[number]
            profit = np.zeros((group.size,) * 2, np.float32)
            for path, axis, *_ in group.members:
                x, y = left[path], right[path]
                for k in range(y.ndim):
                    if k != axis and (path, k) in axes:
                        y = np.take(y, found[axes[path, k]], k)
                x, y = (np.moveaxis(w, axis, 0).reshape(group.size, -1) for w in (x, y))
                profit += x @ y.T
            columns = linear_sum_assignment(profit, maximize=True)[1]
            units = np.arange(group.size)
            gain = np.sum(profit[units, columns] - profit[units, found[group.name]])
            # Beyond rounding; git-re-basin's 1e-12 is below that of its own float32 sums.
            has_gained |= bool(gain > 1e-5)
            found[group.name] = columns
    return found, num_rounds


def distance(spec: UnitSpec, a: Any, b: Any, permutations: dict[str, np.ndarray]) -> float:
    """Squared distance after permuting."""
    moved = dict(named_leaves(spec.permute(b, permutations)))
    return float(sum(np.sum(np.square(x - moved[p], dtype=float)) for p, x in named_leaves(a)))


def interleaved(
    calls: dict[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Calls in turns, fewer turns where one takes long.

    Returns:
        Median CPU seconds, on which other work on the machine has the least influence; and what
        the calls return.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    results = {}
    began = time.process_time()
    for turn in range(repeats):
        if turn and time.process_time() - began > BUDGET:
            break
        for name, call in calls.items():
            start = time.process_time()
            results[name] = call()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(series) for name, series in times.items()}, results


def time_assignments(repeats: int) -> list[dict[str, Any]]:
    """Times the assignment solvers on profits of each size."""
    rows = []
    solve = jax.jit(optax.assignment.hungarian_algorithm)
    for size in SIZES:
        profit = np.random.default_rng(size).standard_normal((size, size)).astype(np.float32)
        on_device = jax.device_put(-profit)
        calls: dict[str, Callable[[], Any]] = {
            "scipy": lambda profit=profit: linear_sum_assignment(profit, maximize=True),
            "optax": lambda costs=on_device: jax.block_until_ready(solve(costs)),
        }
        for call in calls.values():
            call()  # compiles
        rows.append({"size": size, "seconds": interleaved(calls, repeats)[0]})
    return rows


def time_matching(repeats: int) -> list[dict[str, Any]]:
    """Times both ways of weight matching on every pair of networks."""
    rows = []
    for name, build in NETWORKS.items():
        spec = spec_of(build())
        for kind, (a, b) in pairs(spec).items():
            seconds, results = interleaved(
                {
                    "ours": lambda a=a, b=b, spec=spec: align(a, b, spec),
                    "plain": lambda a=a, b=b, spec=spec: plain_weight_matching(spec, a, b),
                },
                repeats,
            )
            ours, (plain, num_rounds) = results["ours"], results["plain"]
            np.testing.assert_allclose(distance(spec, a, b, plain), ours.after, rtol=1e-5)
            rows.append(
                {
                    "network": name,
                    "pair": kind,
                    "num_params": sum(leaf.size for leaf in jax.tree.leaves(a)),
                    "num_groups": len(spec.groups),
                    "rounds": num_rounds,
                    "before": ours.before,
                    "after": ours.after,
                    "seconds": seconds,
                }
            )
    return rows


def main(config: Config) -> None:
    """Measures, prints and optionally writes the tables."""
    record = {
        **environment(),
        "assignment": time_assignments(config.repeats),
        "matching": time_matching(config.repeats),
    }
    print(tables.alignment(record))
    write(record, config.json)


if __name__ == "__main__":
    main(tyro.cli(Config))
