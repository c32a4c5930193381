"""The command: options, and which study they belong to."""

import dataclasses
from pathlib import Path
from typing import Any

from experiments import runs
from experiments.condensation import channels, dense
from experiments.condensation.networks import Activation
from experiments.condensation.settings import DEFAULTS, Dataset, Network, Settings
from experiments.errors import UsageError


@dataclasses.dataclass(frozen=True)
class CondenseExperiment:
    """Replace units that point the same way by one, against pruning and merging at random."""

    dataset: Dataset = "mnist"
    """What to learn."""
    network: Network | None = None
    """A hidden layer of units, or three convolutions. Default: `conv` for cifar10, else `dense`."""
    activation: Activation = "relu"
    """Of the hidden layer; what reads tanh units can only be refitted, not summed."""
    images: int | None = None
    """The first so many training images. Default: 1,000; for `conv` 50,000."""
    width: int | None = None
    """Hidden units; channels of the first convolution. Default: 400; for `conv` 32."""
    scale: float | None = None
    """Standard deviation of the initial weights; the smaller, the more the units condense.
    For `conv` a factor on He's. Default: 1e-17; for `conv` 1."""
    steps: int | None = None
    """Steps of gradient descent before condensing; for `conv` of Adam. Default: 1000."""
    more_steps: int | None = None
    """Steps at most to bring a smaller network to the loss of the wide one; for `conv` steps of
    tuning. Default: 500; for `conv` 100."""
    learning_rate: float | None = None
    """Of gradient descent; for `conv` of Adam. Default: 0.5; for `conv` 0.002."""
    similarity: float = 0.9
    """The least cosine between units that are merged."""
    amplitude: float = 0.05
    """Units of at most this share of the largest |a| |w| are removed."""
    sizes: tuple[int, ...] | None = None
    """Further widths to condense to, as far as there are so many units; for `conv` of the first
    layer, the others in proportion. Default: 10 20 40 58 100; for `conv` 24 16 8."""
    seed: int = 0
    """Of the initial weights; of the first ones, for `conv`."""
    starts: int | None = None
    """Wide networks of consecutive seeds, for `conv` only. Default: 5."""
    json: Path | None = None
    """Where to write the numbers, if anywhere."""
    plot: Path | None = None
    """Where to draw them as a PNG, if anywhere."""
    run_dir: Path = Path("runs/condense")
    """The wide network and what became of it; resumed where it was left."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        asked = self.settings
        if min(asked.images, asked.width, asked.steps, asked.more_steps, *asked.sizes) < 1:
            raise UsageError("images, width, steps, more-steps and sizes must be positive")
        if not (asked.scale > 0 and asked.learning_rate > 0):
            raise UsageError(
                "scale and learning-rate must be positive; got "
                f"{asked.scale}, {asked.learning_rate}"
            )
        if asked.starts < 1 or (asked.network == "dense" and asked.starts != 1):
            raise UsageError(f"starts must be positive, and 1 but for conv; got {asked.starts}")
        if asked.network == "conv" and asked.activation != "relu":
            raise UsageError(f"the convolutions have ReLUs only; got activation {self.activation}")

    @property
    def settings(self) -> Settings:
        """The options, with what was not given."""
        network: Network = self.network or ("conv" if self.dataset == "cifar10" else "dense")
        options: dict[str, Any] = dict(vars(self), network=network)
        del options["overwrite"]
        for name, value in DEFAULTS[network].items():
            if options[name] is None:
                options[name] = value
        return Settings(**options)

    def run(self) -> None:
        """Train and compare what is left to do in the run folder; print, write and draw."""
        asked = self.settings
        runs.open_run(asked.run_dir, asked.config, overwrite=self.overwrite)
        (channels if asked.network == "conv" else dense).run(asked)
