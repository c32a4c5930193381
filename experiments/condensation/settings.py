"""What a study of condensation is asked to do, every option filled in."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from experiments.condensation.networks import Activation

Dataset = Literal["mnist", "digits", "cifar10"]
Network = Literal["dense", "conv"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options of `CondenseExperiment`, which says what they mean."""

    dataset: Dataset
    network: Network
    activation: Activation
    images: int
    width: int
    scale: float
    steps: int
    more_steps: int
    learning_rate: float
    similarity: float
    amplitude: float
    sizes: tuple[int, ...]
    seed: int
    starts: int
    json: Path | None
    plot: Path | None
    run_dir: Path

    @property
    def config(self) -> dict[str, Any]:
        """What determines the results of a start."""
        config = dataclasses.asdict(self)
        for name in ("json", "plot", "run_dir", "starts"):
            del config[name]
        return config | {"sizes": list(self.sizes)}


# What an option that is not given is, by network.
DEFAULTS: dict[Network, dict[str, Any]] = {
    "dense": {
        "images": 1000,
        "width": 400,
        "scale": 1e-17,
        "steps": 1000,
        "more_steps": 500,
        "learning_rate": 0.5,
        "sizes": (10, 20, 40, 58, 100),
        "starts": 1,
    },
    "conv": {
        "images": 50_000,
        "width": 32,
        "scale": 1.0,
        "steps": 1000,
        "more_steps": 100,
        "learning_rate": 2e-3,
        "sizes": (24, 16, 8),
        "starts": 5,
    },
}
