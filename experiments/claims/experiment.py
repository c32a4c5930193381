"""The command: choose each arm's learning rate, compare at that rate, sum up."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments import runs
from experiments.claims import figure, summary
from experiments.claims.protocols import PROTOCOLS, Protocol, ProtocolName
from experiments.claims.workers import NAMES, Piece, Study, done, jobs
from experiments.data import DatasetName
from experiments.errors import UsageError


@dataclasses.dataclass(frozen=True)
class ClaimsExperiment:
    """What the study claims of PFN, tested against tuned optimizers and controls.

    Every arm has the same grid of learning rates and the same budget: its rate is the best of the
    grid on validation images, over seeds of their own; then it is trained from other seeds, paired
    with the other arms by initial parameters and batches, and measured on the test images.
    """

    protocol: ProtocolName = "small"
    """small: 16 x 16 images, narrow networks, 400 steps, for two cores; full: the real sizes, for
    a GPU; rates, long: more learning rates, more steps, of a few arms; smoke: a minute, to see that
    it works."""
    dataset: DatasetName | None = None
    """Default: cifar10, and digits for smoke."""
    workers: int = 1
    """Processes that divide the runs; each uses one core, or one of the GPUs."""
    lanes: int = 1
    """Runs of an arm side by side in one program: pays on a GPU, not on a CPU."""
    data_dir: Path | None = None
    """TFDS data directory. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    results: Path | None = None
    """Folder for copies of summary and figures, if any, as claims_PROTOCOL_DATASET."""
    run_dir: Path | None = None
    """Runs done; resumed where it was left. Default: runs/claims-PROTOCOL-DATASET."""
    overwrite: bool = False
    """Delete the folder's earlier run first."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        for name in ("workers", "lanes"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1; got {getattr(self, name)}")

    def run(self) -> None:
        """Do what is left to do, then print, write and draw the comparison."""
        protocol = PROTOCOLS[self.protocol]
        dataset: DatasetName = self.dataset or ("digits" if self.protocol == "smoke" else "cifar10")
        folder = self.run_dir or Path("runs", f"claims-{self.protocol}-{dataset}")
        config = {"protocol": self.protocol, "dataset": dataset, **described(protocol)}
        runs.open_run(folder, config, overwrite=self.overwrite)
        study = Study(self.protocol, dataset, self.data_dir, self.lanes)
        total = num_runs(protocol)
        records: dict[Piece, dict[str, Any]] = {}
        with tqdm(total=total, unit=" runs", smoothing=0.05) as bar:
            tuning = tuning_pieces(protocol)
            self._do(study, folder / "tuning.jsonl", tuning, records, bar)
            chosen = summary.chosen_rates(records)
            compared = [
                Piece(scenario, optimizer, arm, rate, seed)
                for (scenario, optimizer, arm), rate in chosen.items()
                for seed in protocol.seeds
            ]
            self._do(study, folder / "compared.jsonl", compared, records, bar)
        found = summary.summarised(protocol, config, records)
        runs.write_json(folder / "summary.json", found)
        figure.draw(found, folder / "plots")
        if self.results:
            name = f"claims_{self.protocol}_{dataset}"
            runs.write_json(self.results / f"{name}.json", found, indent=None)  # many numbers
            figure.draw(found, self.results, f"{name}_")
        print(summary.text(found))
        print(f"\nplots: {folder / 'plots'}")

    def _do(
        self,
        study: Study,
        file: Path,
        pieces: Sequence[Piece],
        records: dict[Piece, dict[str, Any]],
        bar: tqdm,
    ) -> None:
        """Add the records of the pieces, from the file or by doing them."""
        on_disk = {Piece(*(one[name] for name in NAMES)): one for one in runs.read_lines(file)}
        wanted = set(pieces)
        records |= {piece: one for piece, one in on_disk.items() if piece in wanted}
        missing = [piece for piece in pieces if piece not in records]
        bar.initial += len(pieces) - len(missing)
        bar.update(len(pieces) - len(missing))
        # A last line cut short by a crash was not read, and is cut off.
        whole = file.read_bytes().rfind(b"\n") + 1 if file.exists() else 0
        with runs.LineLog(file, keep_bytes=whole) as log:
            for record in done(study, jobs(missing, study.lanes), self.workers):
                log.write(record)
                records[Piece(*(record[name] for name in NAMES))] = record
                bar.set_description(f"{record['scenario']}, {record['optimizer']}")
                bar.update()


def described(protocol: Protocol) -> dict[str, Any]:
    """The protocol as JSON values."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(protocol).items()
        if name != "rates"
    } | {"rates": {name: list(grid) for name, grid in protocol.rates.items()}}


def tuning_pieces(protocol: Protocol) -> list[Piece]:
    """The runs that choose learning rates."""
    return [
        Piece(scenario, optimizer, arm.name, rate, seed)
        for scenario in protocol.scenarios
        for optimizer in protocol.optimizers
        for arm in protocol.arms_of(scenario, optimizer)
        for rate in protocol.rates_of(arm, optimizer, scenario)
        for seed in protocol.tuning_seeds
    ]


def num_runs(protocol: Protocol) -> int:
    """All runs, those to choose learning rates included."""
    arms = sum(
        len(protocol.arms_of(scenario, optimizer))
        for scenario in protocol.scenarios
        for optimizer in protocol.optimizers
    )
    return len(tuning_pieces(protocol)) + arms * len(protocol.seeds)
