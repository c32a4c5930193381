"""Command line: `python -m experiments NAME --option value ...`."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.align import AlignCheckpoints
from experiments.align_pair import AlignPairExperiment
from experiments.align_training import AlignTrainingExperiment
from experiments.cifar import CifarTraining
from experiments.claims import ClaimsExperiment
from experiments.condensation import CondenseExperiment
from experiments.diagnose import DiagnoseExperiment, TrainScenariosExperiment
from experiments.dynamics import (
    ExponentMapExperiment,
    GradientHorizonExperiment,
    KernelDepthExperiment,
    LongMemoryExperiment,
    PFNChaosExperiment,
    RNNExponentsExperiment,
)
from experiments.embedding import (
    EigenvaluesExperiment,
    LossCurvesExperiment,
    LossSpectrumExperiment,
    PlateauExperiment,
    SplitsExperiment,
)
from experiments.errors import ExperimentError
from experiments.growth import (
    GrowAllocationExperiment,
    GrowHourglassExperiment,
    GrowPlantedExperiment,
    GrowReallocateExperiment,
    GrowWaistExperiment,
)
from experiments.interrupts import Interrupted
from experiments.merge import MergeMLPExperiment, MergeResNetExperiment
from experiments.pfn import PFNExperiment
from experiments.planted import PlantedExperiment
from experiments.propagation import (
    IsometryDecayExperiment,
    NormGradientsExperiment,
    RankArchitecturesExperiment,
    RankDepthExperiment,
    RankTrainingExperiment,
)
from experiments.regularise import RegulariseExperiment


@dataclasses.dataclass(frozen=True)
class PrepareData:
    """Download and decode a data set now, so that experiments start at once (and offline)."""

    dataset: tyro.conf.Positional[Literal["mnist", "cifar10", "cifar100"]]
    """Which one."""
    data_dir: Path | None = None
    """TFDS data directory. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""

    def run(self) -> None:
        """Prepare the data set and say what it holds."""
        from experiments.data import load

        data = load(self.dataset, self.data_dir)
        print(
            f"{data.name}: {len(data.train_labels)} training and {len(data.test_labels)} test "
            f"images of shape {data.image_shape} in {data.num_classes} classes"
        )


Command = (
    Annotated[PFNExperiment, tyro.conf.subcommand("pfn")]
    | Annotated[ClaimsExperiment, tyro.conf.subcommand("claims")]
    | Annotated[PlantedExperiment, tyro.conf.subcommand("planted")]
    | Annotated[RegulariseExperiment, tyro.conf.subcommand("regularise")]
    | Annotated[AlignPairExperiment, tyro.conf.subcommand("align-pair")]
    | Annotated[MergeMLPExperiment, tyro.conf.subcommand("merge")]
    | Annotated[MergeResNetExperiment, tyro.conf.subcommand("merge-resnet")]
    | Annotated[AlignCheckpoints, tyro.conf.subcommand("align")]
    | Annotated[AlignTrainingExperiment, tyro.conf.subcommand("align-training")]
    | Annotated[LossCurvesExperiment, tyro.conf.subcommand("loss-curves")]
    | Annotated[PlateauExperiment, tyro.conf.subcommand("plateau")]
    | Annotated[EigenvaluesExperiment, tyro.conf.subcommand("eigenvalues")]
    | Annotated[SplitsExperiment, tyro.conf.subcommand("splits")]
    | Annotated[LossSpectrumExperiment, tyro.conf.subcommand("loss-spectrum")]
    | Annotated[CondenseExperiment, tyro.conf.subcommand("condense")]
    | Annotated[RNNExponentsExperiment, tyro.conf.subcommand("rnn-exponents")]
    | Annotated[GradientHorizonExperiment, tyro.conf.subcommand("gradient-horizon")]
    | Annotated[ExponentMapExperiment, tyro.conf.subcommand("exponent-map")]
    | Annotated[LongMemoryExperiment, tyro.conf.subcommand("long-memory")]
    | Annotated[KernelDepthExperiment, tyro.conf.subcommand("kernel-depth")]
    | Annotated[PFNChaosExperiment, tyro.conf.subcommand("pfn-chaos")]
    | Annotated[DiagnoseExperiment, tyro.conf.subcommand("diagnose")]
    | Annotated[TrainScenariosExperiment, tyro.conf.subcommand("train-scenarios")]
    | Annotated[RankDepthExperiment, tyro.conf.subcommand("rank-depth")]
    | Annotated[IsometryDecayExperiment, tyro.conf.subcommand("isometry-decay")]
    | Annotated[NormGradientsExperiment, tyro.conf.subcommand("norm-gradients")]
    | Annotated[RankArchitecturesExperiment, tyro.conf.subcommand("rank-architectures")]
    | Annotated[RankTrainingExperiment, tyro.conf.subcommand("rank-training")]
    | Annotated[GrowWaistExperiment, tyro.conf.subcommand("grow-waist")]
    | Annotated[GrowPlantedExperiment, tyro.conf.subcommand("grow-planted")]
    | Annotated[GrowAllocationExperiment, tyro.conf.subcommand("grow-allocation")]
    | Annotated[GrowReallocateExperiment, tyro.conf.subcommand("grow-reallocate")]
    | Annotated[GrowHourglassExperiment, tyro.conf.subcommand("grow-hourglass")]
    | Annotated[CifarTraining, tyro.conf.subcommand("cifar")]
    | Annotated[PrepareData, tyro.conf.subcommand("data")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Command line without the program's name; by default the process's.

    Returns:
        The exit status: 0, 2 for a request that cannot be met, 130 after Ctrl-C.
    """
    try:
        command = tyro.cli(Command, prog="python -m experiments", args=arguments)
        command.run()
    except ExperimentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (Interrupted, KeyboardInterrupt) as stop:
        print("stopped. Run the same command again to go on from here.", file=sys.stderr)
        return stop.exit_code if isinstance(stop, Interrupted) else 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
