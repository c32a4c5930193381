"""Train a residual network on CIFAR: `python -m experiments cifar`."""

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any, Literal

import optax

from experiments import epochs, runs
from experiments.cifar.diagnosing import diagnosis_of
from experiments.cifar.growing import Growing
from experiments.cifar.networks import ModelName, builder
from experiments.cifar.optimizer import learning_rates, sgd
from experiments.cifar.results import finished, has_failed
from experiments.cifar.trainer import Trainer
from experiments.cifar.watching import PropagationReader
from experiments.data import DatasetName, load
from experiments.devices import Devices, connect
from experiments.diagnoses import DiagnosisReader
from experiments.errors import UsageError
from experiments.graphs import GraphName, flow_options
from experiments.training import Network
from pfn_optax import pfn
from pfn_optax.capacity import DEFAULT_CAPACITY
from pfn_optax.propagation import propagation_monitor

# What two cores can bear, and a customary recipe for accelerators, which has not been run here.
_DEFAULTS = {
    "small": {"width": 16, "epochs": 10, "batch_size": 128, "learning_rate": 0.1},
    "resnet18": {"width": 64, "epochs": 30, "batch_size": 512, "learning_rate": 0.4},
}

# What changes no result beyond rounding: a run may be resumed on other devices.
_NOT_IN_CONFIG = (
    *("data_dir", "run_dir", "overwrite", "checkpoint_seconds", "diagnose"),
    *("devices", "coordinator", "num_processes", "process_id"),
)


@dataclasses.dataclass(frozen=True)
class CifarTraining:
    """Train a residual network on CIFAR, as a project of your own would begin."""

    model: ModelName = "small"
    """small: 78,000 parameters, for two cores; resnet18: 11 million, for an accelerator."""
    width: int | None = None
    """Channels of the first stage. Default: by model (small 16, resnet18 64)."""
    dataset: DatasetName = "cifar10"
    """digits comes with scikit-learn; the others are read from, or downloaded to, --data-dir."""
    epochs: int | None = None
    """Default: by model (small 10, resnet18 30)."""
    batch_size: int | None = None
    """Default: by model (small 128, resnet18 512)."""
    learning_rate: float | None = None
    """The largest; it rises at first and ends at 0. Default: by model (small 0.1, resnet18 0.4)."""
    warmup: float = 0.1
    """Share of the run in which the learning rate rises."""
    momentum: float = 0.9
    """Of SGD, Nesterov's."""
    weight_decay: float = 5e-4
    """Of weights; biases and norms have none."""
    label_smoothing: float = 0.1
    """Share of the target that all classes have alike."""
    ema_decay: float = 0.998
    """Decay of the averaged weights that are evaluated; 0 evaluates the last ones."""
    augment: bool | None = None
    """Random crops and mirror images, on the device. Default: only for CIFAR."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What convolutions compute in. Parameters are float32 in any case."""
    seed: int = 0
    """Sets initial parameters, order of batches and augmentation."""

    pfn: bool = False
    """Amplify the gradients of the bottleneck."""
    capacity: str | None = None
    """Rule of --pfn and --grow. Default: jacobian_rank, with --grow effective_rank."""
    graph: GraphName = "layers"
    """layers: joined as the loss joins them; units: groups of units; chain: layers in a row."""
    beta: float = 1.8
    """Strength of --pfn."""
    grow: bool = False
    """Widen groups of units where the cut is, between epochs; each time, a new compilation."""
    growth_budget: float = 2.0
    """Parameters that --grow may use, as a multiple of those at the start."""
    monitor: bool = False
    """Record the norms of gradients, parameters and updates of every layer."""
    every: int | None = None
    """Steps between what --pfn, --grow and --monitor look at. Default: twice an epoch."""
    diagnose: bool = False
    """Say what is wrong with the network before training, and if training fails."""

    data_dir: Path | None = None
    """TFDS data directory. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    run_dir: Path | None = None
    """Results; resumed where it was left. Default: runs/DATASET-MODEL."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""
    checkpoint_seconds: float = 60.0
    """Longest stretch of training that an abrupt end can cost."""
    devices: int | None = None
    """Devices of each process to split every batch over. Default: one, or all with processes."""
    coordinator: str | None = None
    """HOST:PORT of process 0, to train in several processes: the same command in each, but for its
    --process-id."""
    num_processes: int | None = None
    """Number of processes."""
    process_id: int | None = None
    """Number of this process, from 0."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        for name in ("width", "epochs", "batch_size", "every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1; got {value}")
        for name in ("warmup", "momentum", "label_smoothing", "ema_decay"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise UsageError(f"{name} must be in [0, 1); got {value}")
        rate = self.learning_rate
        if rate is not None and not (rate > 0 and math.isfinite(rate)):
            raise UsageError(f"learning_rate must be positive and finite; got {rate}. Try 0.1.")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise UsageError(f"weight_decay must be at least 0; got {self.weight_decay}")
        if self.grow and not self.growth_budget > 1:
            raise UsageError(f"growth_budget must be more than 1; got {self.growth_budget}")
        if self.grow and self.graph == "units":
            raise UsageError("a graph of units has sizes, which --grow changes: use --graph layers")
        if self.grow and (self.num_processes or self.devices or 1) > 1:
            raise UsageError("--grow trains on one device: leave --num-processes and --devices out")

    def run(self) -> None:
        """Train, or go on where an earlier run was left, and say what came of it."""
        devices = connect(
            self.devices,
            coordinator=self.coordinator,
            num_processes=self.num_processes,
            process_id=self.process_id,
        )
        config = self._config()
        devices.require_split(config["batch_size"])
        self._watchers({}, every=1)  # reports bad options before any work is done
        folder = self.run_dir or Path("runs", f"{self.dataset}-{self.model}")
        runs.check_run(folder, config, overwrite=self.overwrite)
        if self.overwrite or not (folder / "finished.json").exists():
            self._train(folder, config, devices)
        if devices.is_main:
            print(finished(folder, config))

    def _train(self, folder: Path, config: dict[str, Any], devices: Devices) -> None:
        dataset = load(self.dataset, self.data_dir)
        steps_per_epoch = dataset.num_batches(config["batch_size"])
        if devices.is_main:
            runs.open_run(folder, config, overwrite=self.overwrite)
        devices.wait_for_all("run folder")

        every = self.every or max(1, steps_per_epoch // 2)
        network = Network(
            builder(self.model, dataset, width=config["width"]),
            dataset,
            devices,
            dtype=self.precision,
            label_smoothing=self.label_smoothing,
        )
        flow: dict[str, Any] = {}
        if self.pfn or self.grow:
            num_blocks = 1 if self.grow else None  # so the cut goes through whole layers
            flow = flow_options(
                self.graph, network, dataset, block_size=None, num_blocks=num_blocks
            )
        schedule = learning_rates(
            config["learning_rate"],
            num_steps=config["epochs"] * steps_per_epoch,
            warmup=self.warmup,
        )
        decays: dict[str, Any] = {"momentum": self.momentum, "weight_decay": self.weight_decay}
        trainer = Trainer(
            network,
            sgd(schedule, **decays, **self._watchers(flow, every=every)),
            augment=config["augment"],
            ema_decay=self.ema_decay,
            keep_epoch_start=self.diagnose,
        )
        growth = None
        if self.grow:
            options = flow | {"capacity": config["capacity"]}
            growth = Growing(trainer, dataset, budget=self.growth_budget, flow=options)
        readers: list[epochs.Reader] = []
        if self.pfn or self.grow:
            readers.append(DiagnosisReader(every, flow))
        if self.monitor:
            readers.append(PropagationReader(every))
        largest = sgd(optax.constant_schedule(config["learning_rate"]), **decays)
        if self.diagnose and devices.is_main and not (folder / "before.html").exists():
            state, page = trainer.init(self.seed), folder / "before.html"
            diagnosis_of(trainer, state, dataset, optimizer=largest, page=page)

        epochs.train(
            trainer,
            dataset,
            folder=folder,
            seed=self.seed,
            config=config | {"augment": False},  # the step does
            readers=readers,
            checkpoint_seconds=self.checkpoint_seconds,
            description=f"{self.dataset}, {self.model}",
            growth=growth,
        )
        start = trainer.epoch_start
        # In the first epoch it is what was diagnosed before.
        if start is not None and start.step > 0 and devices.is_main and has_failed(folder):
            page = folder / "failure.html"
            diagnosis_of(trainer, start, dataset, optimizer=largest, page=page)

    def _config(self) -> dict[str, Any]:
        """What determines the results, defaults filled in, as JSON values."""
        config = dataclasses.asdict(self)
        for name in _NOT_IN_CONFIG:
            del config[name]
        defaults = _DEFAULTS[self.model] | {
            "augment": self.dataset.startswith("cifar"),
            "capacity": "effective_rank" if self.grow else DEFAULT_CAPACITY,
        }
        return config | {name: value for name, value in defaults.items() if config[name] is None}

    def _watchers(self, flow: dict[str, Any], *, every: int) -> dict[str, Any]:
        """What of `pfn_optax` stands in the optimizer's chain: first, and last."""
        first, last = [], []
        try:
            if self.pfn or self.grow:
                beta = self.beta if self.pfn else 0.0  # only watches
                capacity = self._config()["capacity"]
                first.append(pfn(every=every, beta=beta, capacity=capacity, **flow))
            if self.monitor:
                last.append(propagation_monitor(every=every, capacity=1))  # each is read at once
        except ValueError as error:
            raise UsageError(str(error)) from error
        return {"first": first, "last": last}


if __name__ == "__main__":
    from experiments.__main__ import main

    sys.exit(main(["cifar", *sys.argv[1:]]))
