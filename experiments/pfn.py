"""Does PFN help? One network and optimizer, trained with and without it, from several seeds."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import jax
from flax import nnx

from experiments import comparison, models, overhead, plots, runs
from experiments.checkpoints import Checkpoints
from experiments.data import DatasetName, load
from experiments.devices import Devices, connect
from experiments.diagnoses import DiagnosisReader
from experiments.epochs import train
from experiments.errors import UsageError
from experiments.graphs import GraphName, flow_options
from experiments.optimizers import Arm, default_learning_rate, make_optimizer, wrap
from experiments.training import Network, Trainer, TrainState
from pfn_optax import draw_flow, flow_html
from pfn_optax.capacity import DEFAULT_CAPACITY

# Epochs and batch size that a laptop's two cores can bear, and blocks that cut its layers in four.
_DEFAULTS = {
    "digits": {"epochs": 15, "batch_size": 64, "block_size": 2, "augment": False},
    "mnist": {"epochs": 5, "batch_size": 128, "block_size": 8, "augment": False},
    "cifar10": {"epochs": 20, "batch_size": 128, "block_size": 8, "augment": True},
    "cifar100": {"epochs": 30, "batch_size": 128, "block_size": 8, "augment": True},
}

# What changes no result beyond rounding: a run may be resumed on other devices.
_NOT_IN_CONFIG = (
    *("data_dir", "run_dir", "overwrite", "checkpoint_seconds", "overhead_steps"),
    *("devices", "coordinator", "num_processes", "process_id"),
)


@dataclasses.dataclass(frozen=True)
class PFNExperiment:
    """Train a network with and without PFN and compare accuracy, loss, bottlenecks and time."""

    dataset: DatasetName = "digits"
    """digits comes with scikit-learn; the others are read from, or downloaded to, --data-dir."""
    scenario: models.Scenario = "cnn_bn"
    """Network: six convolutions with or without batch norm, a narrow waist, or a residual net."""
    optimizer: str = "adam"
    """Name of any optax optimizer."""
    learning_rate: float | None = None
    """Default: customary for the optimizer (adam 0.001, sgd 0.05)."""
    optimizer_options: dict[str, float] = dataclasses.field(default_factory=dict)
    """Further numbers for the optimizer, such as `momentum 0.9`."""
    epochs: int | None = None
    """Default: by data set (digits 15, mnist 5, cifar10 20, cifar100 30)."""
    batch_size: int | None = None
    """Default: by data set (digits 64, others 128)."""
    augment: bool | None = None
    """Random crops and mirror images. Default: only for CIFAR."""
    seeds: int = 3
    """Number of seeds; a seed sets the initial parameters and the order of batches in all arms."""
    arms: tuple[Arm, ...] = get_args(Arm)
    """plain: the optimizer; pfn: amplified gradients before it; with_pfn: amplified updates."""

    graph: GraphName = "layers"
    """layers: joined as the loss joins them; units: groups of units; chain: layers in a row."""
    capacity: str = DEFAULT_CAPACITY
    """Rule that gives each block its capacity: rank, norm, energy, relative, sensitivity, ..."""
    every: int | None = None
    """Steps between diagnoses. Default: a thirtieth of the run."""
    block_size: int | None = None
    """Units per block. Default: by data set (digits 2, others 8), four times that for units."""
    num_blocks: int | None = None
    """Blocks per layer, instead of --block-size."""
    beta: float = 1.8
    """Strength of the amplification."""
    gamma: float = 0.15
    """Growth of the amplification per diagnosis in the cut."""
    max_persistence: int = 15
    """Diagnoses after which it stops growing."""
    ema_decay: float = 0.9
    """Decay of the moving average of gradient norms."""
    renormalize: bool = False
    """Keep the norm of all gradients together, so that only their proportions change."""
    side: str = "source"
    """Of several minimum cuts, the one nearest the loss (source) or the data (sink)."""

    data_dir: Path | None = None
    """TFDS data directory. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    run_dir: Path | None = None
    """Results; resumed where it was left. Default: runs/pfn-DATASET-SCENARIO-OPTIMIZER."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""
    checkpoint_seconds: float = 30.0
    """Longest stretch of training that an abrupt end can cost."""
    devices: int | None = None
    """Devices of each process to split every batch over. Default: one, or all with processes."""
    coordinator: str | None = None
    """HOST:PORT of process 0, to train in several processes: the same command in each, but for its
    --process-id. They share the run folder, and the first one writes it."""
    num_processes: int | None = None
    """Number of processes."""
    process_id: int | None = None
    """Number of this process, from 0."""
    overhead_steps: int = 30
    """Steps of each kind to time at the end; 0 leaves the timing out."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        for name in ("seeds", "epochs", "batch_size", "every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1; got {value}")
        if not self.arms or len(set(self.arms)) < len(self.arms):
            raise UsageError(f"arms must be one or more different arms; got {self.arms}")

    def run(self) -> None:
        """Train what is not trained yet, then print and plot the comparison."""
        devices = connect(
            self.devices,
            coordinator=self.coordinator,
            num_processes=self.num_processes,
            process_id=self.process_id,
        )
        config = self._config()
        devices.require_split(config["batch_size"])
        sizes = {name: config[name] for name in ("block_size", "num_blocks")}
        self._optimizers(config, sizes, every=1)  # reports bad options before any work is done
        name = f"pfn-{self.dataset}-{self.scenario}-{self.optimizer}"
        folder = self.run_dir or Path("runs", name)
        runs.check_run(folder, config, overwrite=self.overwrite)
        if self.overwrite or not (folder / "summary.json").exists():
            self._complete(folder, config, devices)
        if not devices.is_main:
            return
        print(comparison.text(folder))
        print(f"\nplots: {folder / 'plots'}    curves: tensorboard --logdir {folder.parent}")

    def _complete(self, folder: Path, config: dict[str, Any], devices: Devices) -> None:
        """Do what is left to do in the run folder; its summary is written last."""
        dataset = load(self.dataset, self.data_dir)
        num_steps = config["epochs"] * dataset.num_batches(config["batch_size"])
        if devices.is_main:
            runs.open_run(folder, config, overwrite=self.overwrite)
        devices.wait_for_all("run folder")
        every = self.every or max(1, num_steps // 30)

        def build(rngs: nnx.Rngs) -> nnx.Sequential:
            shape, num_classes = dataset.image_shape, dataset.num_classes
            return models.build(
                self.scenario, image_shape=shape, num_classes=num_classes, rngs=rngs
            )

        network = Network(build, dataset, devices)
        sizes = {name: config[name] for name in ("block_size", "num_blocks")}
        flow = flow_options(self.graph, network, dataset, **sizes)
        trainers = {
            arm: Trainer(network, optimizer)
            for arm, optimizer in self._optimizers(config, flow, every=every).items()
        }
        for seed in range(self.seeds):
            for arm, trainer in trainers.items():
                train(
                    trainer,
                    dataset,
                    folder=folder / arm / f"seed-{seed}",
                    seed=seed,
                    config=config,
                    readers=() if arm == "plain" else (DiagnosisReader(every, flow),),
                    checkpoint_seconds=self.checkpoint_seconds,
                    description=f"{arm}, seed {seed + 1}/{self.seeds}",
                )
        if self.overhead_steps:
            repeats = self.overhead_steps
            times = overhead.measure(
                trainers, dataset, config["batch_size"], every=every, repeats=repeats
            )
            if devices.is_main:
                runs.write_json(folder / "overhead.json", times)
        states = _last_states(folder, trainers)
        if devices.is_main:
            _draw(folder, states, flow | {"capacity": self.capacity})
            comparison.write_summary(folder)

    def _config(self) -> dict[str, Any]:
        """What determines the results, defaults filled in, as JSON values."""
        config = dataclasses.asdict(self)
        for name in _NOT_IN_CONFIG:
            del config[name]
        defaults = dict(_DEFAULTS[self.dataset])
        if self.num_blocks is not None:
            del defaults["block_size"]
        elif self.graph == "units":
            defaults["block_size"] *= 4  # the blocks are squares there
        defaults["learning_rate"] = default_learning_rate(self.optimizer)
        for name, value in defaults.items():
            if config[name] is None:
                config[name] = value
        return config | {"arms": list(self.arms)}

    def _optimizers(
        self, config: dict[str, Any], flow: dict[str, Any], *, every: int
    ) -> dict[Arm, Any]:
        names = ("capacity", "beta", "gamma", "max_persistence", "ema_decay", "renormalize", "side")
        options = {name: config[name] for name in names} | flow
        try:
            optimizer = make_optimizer(
                self.optimizer,
                learning_rate=config["learning_rate"],
                options=self.optimizer_options,
            )
            return {arm: wrap(arm, optimizer, every=every, **options) for arm in self.arms}
        except ValueError as error:
            raise UsageError(str(error)) from error


def _last_states(folder: Path, trainers: Mapping[str, Trainer]) -> dict[str, TrainState]:
    """The state after training of the first seed of each arm with PFN, in host memory."""
    states = {}
    for arm, trainer in trainers.items():
        if arm == "plain":
            continue
        with Checkpoints(folder / arm / "seed-0" / "checkpoints") as checkpoints:
            restored = checkpoints.restore(trainer.init(0))
        if restored is not None:
            states[arm] = jax.device_get(restored[0])
    return states


def _draw(folder: Path, states: Mapping[str, TrainState], flow: dict[str, Any]) -> None:
    plots.learning_curves(folder)
    for arm, state in states.items():
        plots.cut_heat_map(folder, arm)
        figure = draw_flow(state.opt_state, state.params, **flow)
        plots.save(figure, folder / "plots" / f"flow_network-{arm}.png")
        page = flow_html(state.opt_state, state.params, **flow)
        (folder / "plots" / f"flow_network-{arm}.html").write_text(page)
