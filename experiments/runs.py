"""The run folder: configuration, metrics as JSON lines, TensorBoard event files.

```
RUN/config.json                      what was asked for, and with which versions
RUN/summary.json, overhead.json      the comparison
RUN/plots/*.png
RUN/ARM/seed-K/metrics.jsonl         one line per epoch and per diagnosis, in order
RUN/ARM/seed-K/timings.jsonl         wall-clock times, which no two runs share
RUN/ARM/seed-K/checkpoints/
RUN/ARM/seed-K/events.out.tfevents.*
```
"""

import contextlib
import json
import math
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from tensorboardX import SummaryWriter

from experiments.errors import RunFolderError


def check_run(folder: Path, config: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Check that a folder is free, or belongs to the same configuration.

    Args:
        folder: The folder, which need not exist.
        config: What determines the results, as JSON values.
        overwrite: Whether a run of another configuration may be there.

    Raises:
        RunFolderError: If the folder holds a run of another configuration, or other files.
    """
    file = folder / "config.json"
    if not file.exists():
        others = folder.iterdir() if folder.exists() else ()
        if any(other.name != "config.json.partial" for other in others):
            raise RunFolderError(
                f"{folder} is not empty and holds no run (no config.json). Choose another folder "
                "with --run-dir."
            )
        return
    earlier = json.loads(file.read_text())["config"]
    differences = [
        f"  {key}: {earlier.get(key)!r} there, {config.get(key)!r} asked for"
        for key in sorted({*earlier, *config})
        if earlier.get(key) != config.get(key)
    ]
    if differences and not overwrite:
        raise RunFolderError(
            f"{folder} holds a run with another configuration:\n"
            + "\n".join(differences)
            + "\nChoose another folder with --run-dir, or start it afresh with --overwrite."
        )


def open_run(folder: Path, config: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Create a run folder, or go on with the one there.

    Args:
        folder: The folder.
        config: What determines the results, as JSON values.
        overwrite: Delete the run that is there first.

    Raises:
        RunFolderError: As `check_run`.
    """
    check_run(folder, config, overwrite=overwrite)
    file = folder / "config.json"
    if file.exists() and overwrite:
        shutil.rmtree(folder)
    if not file.exists():
        packages = ("jax", "jaxlib", "flax", "optax", "numpy")
        versions = {name: metadata.version(name) for name in packages}
        versions |= {"python": sys.version.split()[0], "machine": platform.machine()}
        write_json(file, {"config": dict(config), "versions": versions})


def write_json(file: Path, value: Any, *, indent: int | None = 2) -> None:
    """Write JSON atomically; NaN and infinity, which JSON lacks, become null."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps(_finite(value), indent=indent, allow_nan=False) + "\n")
    partial.replace(file)


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The records of a JSON lines file; a last line cut short by a crash is left out."""
    if not file.exists():
        return []
    lines = file.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(key): _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case _:
            return value


class LineLog:
    """Append records to a JSON lines file; a record is on disk when `write` returns.

    Attributes:
        num_bytes: Size of the file.
    """

    def __init__(self, file: Path, *, keep_bytes: int | None = None):
        """Open a log.

        Args:
            file: The file, created where it does not exist.
            keep_bytes: Size to cut the file to first; by default all of it is kept.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        self._stream = file.open("ab")
        if keep_bytes is not None:
            self._stream.truncate(keep_bytes)
        self.num_bytes = file.stat().st_size

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record."""
        line = json.dumps(_finite(record), allow_nan=False).encode() + b"\n"
        self._stream.write(line)
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.num_bytes += len(line)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def __enter__(self) -> Self:
        """Close at the end of a `with` block."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the file."""
        self.close()


class NoLog(contextlib.nullcontext):
    """What the processes of a run write that are not the first: nothing.

    Attributes:
        num_bytes: Size of nothing.
    """

    num_bytes = 0

    def write(self, record: Mapping[str, Any]) -> None:
        """Drop one record."""


class MetricsLog(LineLog):
    """The metrics of a run, `metrics.jsonl`, mirrored in a TensorBoard event file.

    The JSON lines are the truth. Event files are written anew from them whenever a run is resumed,
    so that no curve holds a point twice.
    """

    def __init__(self, folder: Path, *, keep_bytes: int):
        """Open the log of a run.

        Args:
            folder: Folder of the run.
            keep_bytes: Size to cut the file to: what follows the checkpoint is recomputed.
        """
        super().__init__(folder / "metrics.jsonl", keep_bytes=keep_bytes)
        for stale in folder.glob("events.out.tfevents.*"):
            stale.unlink()
        self._events = SummaryWriter(str(folder))
        for record in read_lines(folder / "metrics.jsonl"):
            self._mirror(record)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record with the keys `kind` and `step`."""
        super().write(record)
        self._mirror(record)

    def _mirror(self, record: Mapping[str, Any]) -> None:
        for tag, value in _scalars(record):
            self._events.add_scalar(tag, value, record["step"])
        self._events.flush()

    def close(self) -> None:
        """Close both files."""
        super().close()
        self._events.close()


def _scalars(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Numbers of a record, nested ones under `outer/inner`; what is not a number is left out."""
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and key not in ("step", "epoch"):
            yield f"{prefix}{key}", float(value)
