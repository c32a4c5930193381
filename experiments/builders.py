"""Prepare CIFAR-10, CIFAR-100 and MNIST for TensorFlow Datasets without TensorFlow.

The official builders read their archives with `tf.io.gfile`. These have the same names, versions,
features and splits, and use TFDS's own download manager with its recorded checksums, but unpack
with the standard library and write `array_record` files, so that `tfds.data_source(name)` reads
the result like the official one.
"""

import gzip
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

from experiments.errors import DataUnavailableError


class Cifar10(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """CIFAR-10 from its binary archive: records of one label byte and 3072 pixel bytes."""

    name = "cifar10"
    VERSION = tfds.core.Version("3.0.2")
    archives: ClassVar = ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",)
    label_sizes: ClassVar = {"label": 10}
    label_names: ClassVar = {"label": "batches.meta.txt"}
    members: ClassVar = {
        "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        "test": ("test_batch.bin",),
    }

    def _info(self) -> tfds.core.DatasetInfo:
        labels = {
            key: tfds.features.ClassLabel(num_classes=size)
            for key, size in self.label_sizes.items()
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(32, 32, 3)),
                    **labels,
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        features: Any = self.info.features
        with tarfile.open(dl_manager.download(self.archives[0])) as archive:
            content = {
                Path(member.name).name: stream.read()
                for member in archive
                if (stream := archive.extractfile(member)) is not None
            }
        for key, file in self.label_names.items():
            features[key].names = content[file].decode().split()
        return {
            split: self._generate_examples(split, (content[name] for name in names))
            for split, names in self.members.items()
        }

    def _generate_examples(self, split: str, files: Iterable[bytes]) -> Iterator[tuple[int, dict]]:
        num_labels, index = len(self.label_sizes), 0
        for data in files:
            records = np.frombuffer(data, np.uint8).reshape(-1, num_labels + 3072)
            for record in records:
                image = record[num_labels:].reshape(3, 32, 32).transpose(1, 2, 0)
                labels = dict(zip(self.label_sizes, record[:num_labels].tolist(), strict=True))
                yield index, {"id": f"{split}_{index:05d}", "image": _picture(image), **labels}
                index += 1


class Cifar100(Cifar10, skip_registration=True):
    """CIFAR-100: records of a coarse and a fine label byte and 3072 pixel bytes."""

    name = "cifar100"
    VERSION = tfds.core.Version("3.0.2")
    archives: ClassVar = ("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",)
    label_sizes: ClassVar = {"coarse_label": 20, "label": 100}
    label_names: ClassVar = {
        "coarse_label": "coarse_label_names.txt",
        "label": "fine_label_names.txt",
    }
    members: ClassVar = {"train": ("train.bin",), "test": ("test.bin",)}


_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist/"


class Mnist(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """MNIST from its four gzipped idx files."""

    name = "mnist"
    VERSION = tfds.core.Version("3.0.1")
    archives: ClassVar = (
        f"{_MNIST}train-images-idx3-ubyte.gz",
        f"{_MNIST}train-labels-idx1-ubyte.gz",
        f"{_MNIST}t10k-images-idx3-ubyte.gz",
        f"{_MNIST}t10k-labels-idx1-ubyte.gz",
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(28, 28, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="http://yann.lecun.com/exdb/mnist/",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        paths = dl_manager.download(list(self.archives))
        return {
            "train": self._generate_examples(*paths[:2]),
            "test": self._generate_examples(*paths[2:]),
        }

    def _generate_examples(self, images, labels) -> Iterator[tuple[int, dict]]:
        for index, (image, label) in enumerate(zip(_idx(images), _idx(labels), strict=True)):
            yield index, {"image": _picture(image), "label": int(label)}


def _picture(pixels: np.ndarray) -> Image.Image:
    """The same image for Pillow, which TFDS then encodes; pixels it encodes with TensorFlow."""
    return Image.fromarray(np.ascontiguousarray(pixels))


def _idx(path) -> np.ndarray:
    """Array of a gzipped idx file: 0, 0, type 8 (u8), rank, big-endian u32 sizes, then data."""
    with gzip.open(path) as file:
        data = file.read()
    if data[:3] != b"\0\0\x08":
        raise ValueError(f"{path} must be an idx file of unsigned bytes; it starts with {data[:4]}")
    shape = np.frombuffer(data, ">u4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape.astype(int))


BUILDERS: dict[str, type[tfds.core.GeneratorBasedBuilder]] = {
    builder.name: builder for builder in (Cifar10, Cifar100, Mnist)
}


def prepare(name: str, data_dir: Path, *, builder: type | None = None) -> Path:
    """Download an official data set and write it as a TFDS directory.

    Args:
        name: `"cifar10"`, `"cifar100"` or `"mnist"`.
        data_dir: TFDS data directory to write to; archives go to `data_dir / "downloads"`.
        builder: Builder class; by default the one of that name in `BUILDERS`.

    Returns:
        The folder written, `data_dir / name / version`.

    Raises:
        DataUnavailableError: If an archive cannot be downloaded or has a wrong checksum.
    """
    builder = builder or BUILDERS[name]
    downloads = data_dir / "downloads"
    missing = [url for url in builder.archives if not _is_downloaded(url, downloads)]
    try:
        for url in missing:  # TFDS itself would retry for minutes before it gives up
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()
        prepared = builder(data_dir=data_dir, file_format="array_record")
        prepared.download_and_prepare(
            download_dir=downloads,
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        )
    except (OSError, tfds.download.DownloadError, NonMatchingChecksumError) as error:
        raise DataUnavailableError(_remedy(name, data_dir, builder.archives, error)) from error
    return Path(prepared.data_dir)


def _is_downloaded(url: str, downloads: Path) -> bool:
    stem = url.rsplit("/", 1)[-1].split(".")[0]
    return any(path.is_file() and stem in path.name for path in downloads.rglob("*.gz"))


def _remedy(name: str, data_dir: Path, archives: Iterable[str], error: Exception) -> str:
    urls = "\n".join(f"     {url}" for url in archives)
    return (
        f"{name} is not in {data_dir} and could not be downloaded ({error}).\n"
        "Do one of these:\n"
        f"  1. Have a TFDS directory with {name}/VERSION/*.array_record-* already? Point to its "
        "parent with --data-dir DIR or the environment variable TFDS_DATA_DIR.\n"
        f"  2. On a machine with a network run `python -m experiments data {name} --data-dir DIR` "
        f"and copy DIR/{name} to {data_dir / name}.\n"
        f"  3. Put the original archives into {data_dir / 'downloads' / 'manual'} and run again:\n"
        f"{urls}"
    )
