"""How long, how wide, how often: the protocol in three sizes, and two closer looks."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from experiments.claims.arms import OPTIMIZERS, SCENARIOS, Arm, OptimizerName, Scenario, arms_of

ProtocolName = Literal["full", "small", "rates", "long", "smoke"]


# Without batch norm SGD dies at a tenth, with it a tenth is where it is best.
_SGD, _SGD_NORM = (0.01, 0.02, 0.04, 0.08), (0.03, 0.1, 0.3, 1.0)
_ADAMW = (0.001, 0.003, 0.01, 0.03)
_RATES = {
    **{"adamw": _ADAMW, "agc_adamw": _ADAMW, "lamb": (0.003, 0.01, 0.03, 0.1)},
    **dict.fromkeys(("sgd", "agc_sgd", "lars"), _SGD),
    **{f"{name}, cnn_bn": _SGD_NORM for name in ("sgd", "agc_sgd", "lars")},
    "muon": (0.003, 0.01, 0.03, 0.1),
}


@dataclass(frozen=True, eq=False)  # compared as what it is, not by value
class Protocol:
    """Sizes of a study.

    Attributes:
        image_size: Images are averaged down to this height and width.
        width: Channels of the first convolution.
        block_size: Units per block, on layer and unit graphs.
        train_images: Images trained on, from the front of a fixed shuffle.
        validation_images: Images after those, by which learning rates are chosen.
        curve_images: Images that a point of a curve is measured on; its end is measured on all.
        steps: Updates, with one cosine from the learning rate to zero.
        batch_size: Images per step.
        augment: Random crops and mirror images.
        points: Points of a curve.
        events: Units added by the arms that grow.
        tuning_seeds: Seeds that choose the learning rate, and nothing else.
        seeds: Seeds that are compared.
        scenarios: Networks.
        optimizers: Plain optimizers.
        arms: Names of the arms; None for all.
        rates: Learning rates by optimizer, or "optimizer, scenario" where a scenario has its own;
            rivals have grids of as many rates.
    """

    image_size: int
    width: int
    block_size: int
    train_images: int
    validation_images: int
    curve_images: int
    steps: int
    batch_size: int
    augment: bool
    points: int
    events: int
    tuning_seeds: tuple[int, ...] = (100, 101)
    seeds: tuple[int, ...] = tuple(range(6))
    scenarios: tuple[Scenario, ...] = SCENARIOS
    optimizers: tuple[OptimizerName, ...] = OPTIMIZERS
    arms: tuple[str, ...] | None = None
    rates: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: _RATES)

    def arms_of(self, scenario: Scenario, optimizer: OptimizerName) -> tuple[Arm, ...]:
        """The protocol's arms of a scenario with an optimizer."""
        found = arms_of(scenario, optimizer)
        return tuple(arm for arm in found if self.arms is None or arm.name in self.arms)

    def rates_of(self, arm: Arm, optimizer: OptimizerName, scenario: Scenario) -> tuple[float, ...]:
        """The learning rates that an arm may have."""
        name = arm.optimizer or optimizer
        return self.rates.get(f"{name}, {scenario}", self.rates[name])


PROTOCOLS: dict[ProtocolName, Protocol] = {
    "full": Protocol(
        image_size=32,
        width=24,
        block_size=8,
        train_images=45_000,
        validation_images=5_000,
        curve_images=10_000,
        steps=21_000,  # 60 epochs
        batch_size=128,
        augment=True,
        points=30,
        events=16,
    ),
    "small": Protocol(
        image_size=16,
        width=8,
        block_size=4,
        train_images=10_000,
        validation_images=2_000,
        curve_images=1_000,
        steps=400,
        batch_size=64,
        augment=False,
        points=10,
        events=8,
    ),
    "smoke": Protocol(
        image_size=8,
        width=4,
        block_size=2,
        train_images=256,
        validation_images=64,
        curve_images=64,
        steps=12,
        batch_size=16,
        augment=False,
        points=2,
        tuning_seeds=(100,),
        seeds=(0, 1),
        scenarios=("hourglass",),
        optimizers=("sgd",),
        arms=("plain", "default, before", "default, redrawn", "rebalanced", "growth at the cut"),
        rates={"sgd": (0.03, 0.1)},
        events=2,
    ),
}

# The learning rate is what PFN has to beat: all of its range, by as many seeds as are compared.
PROTOCOLS["rates"] = replace(
    PROTOCOLS["small"],
    tuning_seeds=tuple(range(100, 106)),
    optimizers=("sgd",),
    arms=("plain", "study, before", "study, uniform"),
    rates={
        "sgd": (0.00125, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16),
        "sgd, cnn_bn": (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64),
    },
)

# The study's first claim is about the end of a long training with batch norm.
PROTOCOLS["long"] = replace(
    PROTOCOLS["small"],
    steps=2_000,
    points=20,
    scenarios=("cnn_bn",),
    optimizers=("sgd",),
    arms=("plain", "study, before", "layers, rank", "study, uniform", "study, permuted", "muon"),
)
