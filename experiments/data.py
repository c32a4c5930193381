"""Image data sets as plain arrays: decoded once, cached, then read in a fraction of a second.

`digits` (real 8x8 scans) comes with scikit-learn; the others are read through TensorFlow
Datasets' random-access sources, which need no TensorFlow.
"""

import dataclasses
import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from tqdm import tqdm

from experiments.errors import DataUnavailableError, UsageError

DatasetName = Literal["digits", "mnist", "cifar10", "cifar100"]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A labelled image set in memory.

    Attributes:
        name: One of `DatasetName`.
        train_images: `u8[num_train, height, width, channels]`.
        train_labels: `i32[num_train]`.
        test_images: `u8[num_test, height, width, channels]`.
        test_labels: `i32[num_test]`.
        num_classes: Labels are `0 .. num_classes - 1`.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        return self.train_images.shape[1:]

    def num_batches(self, batch_size: int) -> int:
        """Full batches of an epoch.

        Raises:
            UsageError: If there is not one.
        """
        count = len(self.train_labels) // batch_size
        if count == 0:
            raise UsageError(
                f"batch_size must be at most the {len(self.train_labels)} training images of "
                f"{self.name}; got {batch_size}"
            )
        return count

    def channel_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel over the training images, in [0, 1]."""
        # A channel's histogram gives both moments exactly, without a float copy of the images.
        values = np.arange(256) / 255
        means, deviations = [], []
        for channel in range(self.image_shape[-1]):
            counts = np.bincount(self.train_images[..., channel].ravel(), minlength=256)
            mean = np.average(values, weights=counts)
            means.append(mean)
            deviations.append(np.sqrt(np.average((values - mean) ** 2, weights=counts)))
        return np.asarray(means, np.float32), np.asarray(deviations, np.float32)


def load(name: DatasetName, data_dir: str | os.PathLike | None = None) -> Dataset:
    """Load a data set, preparing and caching it where that has not been done yet.

    Args:
        name: `"digits"`, `"mnist"`, `"cifar10"` or `"cifar100"`.
        data_dir: TFDS data directory (holding `cifar10/3.0.2/...`); by default the environment
            variable `TFDS_DATA_DIR`, else `~/tensorflow_datasets`. Not used for `digits`.

    Returns:
        The data set, with the official split into training and test images.

    Raises:
        ValueError: If there is no data set of that name.
        DataUnavailableError: If the data is neither there nor can be downloaded, with what to do.

    Example:
        >>> digits = load("digits")
        >>> digits.image_shape, digits.num_classes, len(digits.train_labels)
        ((8, 8, 1), 10, 1437)
    """
    if name not in get_args(DatasetName):
        raise ValueError(f"dataset must be one of {', '.join(get_args(DatasetName))}; got {name!r}")
    if name == "digits":
        return _digits()
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    folder = _prepared_folder(root, name)
    if folder is None:
        from experiments import builders  # TFDS takes seconds to import: only where it is used

        builders.prepare(name, root)
        folder = _prepared_folder(root, name)
        assert folder is not None
    cache = _cache_file(folder)
    arrays = _read_cache(cache)
    if arrays is None:
        arrays = _decode(folder)
        _write_cache(cache, arrays)
    return Dataset(name=name, **arrays)


def _digits() -> Dataset:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch: Any = load_digits()
    images = np.round(bunch.images[..., None] * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int32)
    parts: Any = train_test_split(images, labels, test_size=360, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = parts
    return Dataset("digits", train_images, train_labels, test_images, test_labels, 10)


def _prepared_folder(root: Path, name: str) -> Path | None:
    """The newest prepared version below `root / name`."""
    infos = (root / name).glob("*.*.*/dataset_info.json")
    versions = sorted(infos, key=lambda info: [int(part) for part in info.parent.name.split(".")])
    return versions[-1].parent if versions else None


def _decode(folder: Path) -> dict[str, Any]:
    import tensorflow_datasets as tfds

    name, version, root = folder.parent.name, folder.name, folder.parent.parent
    if json.loads((folder / "dataset_info.json").read_text()).get("fileFormat") != "array_record":
        raise DataUnavailableError(
            f"{folder} was prepared as TFRecord files, which cannot be read at random without "
            f"TensorFlow. Prepare a second copy: python -m experiments data {name} --data-dir "
            "ANOTHER_DIRECTORY, and pass the same --data-dir here."
        )
    arrays: dict[str, Any] = {}
    for split in ("train", "test"):
        source: Any = tfds.data_source(
            f"{name}:{version}", split=split, data_dir=root, download=False
        )
        images, labels = _read(source, f"decoding {name} {split}")
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
        arrays["num_classes"] = source.dataset_info.features["label"].num_classes
    return arrays


def _read(source: Sequence, description: str) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels of a TFDS data source, in order."""
    first = source[0]
    images = np.empty((len(source), *first["image"].shape), np.uint8)
    labels = np.empty(len(source), np.int32)
    for i, record in enumerate(tqdm(source, desc=description, unit=" images", file=sys.stderr)):
        images[i], labels[i] = record["image"], record["label"]
    return images, labels


def cache_dir() -> Path:
    """Directory of decoded data: `$PFN_OPTAX_CACHE`, else the platform's cache directory."""
    if configured := os.environ.get("PFN_OPTAX_CACHE"):
        return Path(configured).expanduser()
    if sys.platform == "darwin":
        base = Path("~/Library/Caches")
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", "~/AppData/Local"))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    return base.expanduser() / "pfn_optax"


def _cache_file(folder: Path) -> Path:
    """Cache file of a prepared folder; another source or a new preparation gets another file."""
    identity = f"{folder.resolve()}\n{(folder / 'dataset_info.json').read_text()}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return cache_dir() / f"{folder.parent.name}-{folder.name}-{digest}.npz"


def _read_cache(path: Path) -> dict[str, Any] | None:
    """The cached arrays; None where there are none or the file is damaged (zip checks a CRC)."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
        return arrays | {"num_classes": int(arrays["num_classes"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        print(f"{path} is damaged and is decoded again", file=sys.stderr)
        return None


def _write_cache(path: Path, arrays: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, **arrays)
        partial.replace(path)  # atomic: a reader sees the whole file or none
    finally:
        partial.unlink(missing_ok=True)
