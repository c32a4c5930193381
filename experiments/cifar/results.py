"""What came of a run, in words."""

from pathlib import Path
from typing import Any

from experiments.errors import ExperimentError
from experiments.runs import read_lines


class TrainingFailedError(ExperimentError):
    """The loss was not finite."""


def has_failed(folder: Path) -> bool:
    """Whether the run in a folder ended because its loss was not finite."""
    return not _epochs(folder)[-1]["is_finite"]


def finished(folder: Path, config: dict[str, Any]) -> str:
    """Accuracy and time of a finished run.

    Args:
        folder: The run folder.
        config: `model`, `dataset` and `batch_size`.

    Returns:
        A few lines.

    Raises:
        TrainingFailedError: If the loss was not finite, with what to do.
    """
    records = _epochs(folder)
    last = records[-1]
    if not last["is_finite"]:
        pages = [folder / name for name in ("failure.html", "before.html")]
        page = next((page for page in pages if page.exists()), None)
        asked = "--diagnose says what is wrong" if page is None else f"{page} says what is wrong"
        raise TrainingFailedError(
            f"the loss was not finite in epoch {last['epoch']}. {asked}. Start afresh with "
            "--overwrite, and perhaps a smaller --learning-rate or a longer --warmup."
        )
    timings = read_lines(folder / "timings.jsonl")
    seconds = sum(record["train_seconds"] for record in timings)
    images = sum(record["steps"] for record in timings) * config["batch_size"]
    best = max(records, key=lambda record: record["test_accuracy"])
    return (
        f"{config['dataset']}, {config['model']}: test accuracy {last['test_accuracy']:.2%} after "
        f"{last['epoch']} epochs (best {best['test_accuracy']:.2%}, in epoch {best['epoch']}); "
        f"trained for {seconds / 60:.1f} minutes, {images / seconds:.0f} images a second\n"
        f"curves: tensorboard --logdir {folder.parent}"
    )


def _epochs(folder: Path) -> list[dict[str, Any]]:
    records = read_lines(folder / "metrics.jsonl")
    return [record for record in records if record["kind"] == "epoch"]
