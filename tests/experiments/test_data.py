"""Decoding, caching and the messages of what is missing."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from experiments import data
from experiments.__main__ import main
from experiments.errors import DataUnavailableError


def test_digits_are_split_by_class():
    digits = data.load("digits")
    assert digits.image_shape == (8, 8, 1)
    assert digits.train_images.dtype == np.uint8
    assert digits.train_images.max() == 255
    assert len(digits.train_labels) + len(digits.test_labels) == 1797
    share = np.bincount(digits.test_labels) / np.bincount(
        np.r_[digits.train_labels, digits.test_labels]
    )
    np.testing.assert_allclose(share, 0.2, atol=0.01)


def test_channel_moments_are_those_of_the_pixels():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(7, 5, 4, 3), dtype=np.uint8)
    labels = np.zeros(7, np.int32)
    dataset = data.Dataset("random", images, labels, images, labels, 1)
    mean, deviation = dataset.channel_moments()
    pixels = images.reshape(-1, 3) / 255
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(deviation, pixels.std(0), rtol=1e-6)


def test_unknown_data_set():
    with pytest.raises(ValueError, match="dataset must be one of digits, mnist"):
        data.load("imagenet")  # pyright: ignore[reportArgumentType]


def test_damaged_cache_is_left_out(tmp_path, capsys):
    arrays = {"train_images": np.arange(1000, dtype=np.uint8), "num_classes": np.int64(10)}
    file = tmp_path / "cache" / "set.npz"
    assert data._read_cache(file) is None
    data._write_cache(file, arrays)
    assert list(file.parent.iterdir()) == [file]
    restored = data._read_cache(file)
    assert restored is not None
    np.testing.assert_array_equal(restored["train_images"], arrays["train_images"])

    content = file.read_bytes()
    for damaged in (content[:-40], content.replace(bytes(range(8, 16)), bytes(8)), b""):
        file.write_bytes(damaged)
        assert data._read_cache(file) is None
        assert "is damaged and is decoded again" in capsys.readouterr().err


def write_tfrecord_info(root: Path) -> None:
    folder = root / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(json.dumps({"fileFormat": "tfrecord"}))


def test_tfrecord_files_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setenv("PFN_OPTAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    write_tfrecord_info(tmp_path)
    with pytest.raises(DataUnavailableError, match="python -m experiments data cifar10"):
        data.load("cifar10")


def test_command_line_reports_unusable_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PFN_OPTAX_CACHE", str(tmp_path / "cache"))
    write_tfrecord_info(tmp_path)
    options = ["--dataset", "cifar10", "--data-dir", str(tmp_path)]
    assert main(["pfn", *options, "--run-dir", str(tmp_path / "run")]) == 2
    assert "prepared as TFRecord files" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "num_train"), [("mnist", (28, 28, 1), 60000), ("cifar10", (32, 32, 3), 50000)]
)
def test_official_data(name, shape, num_train):
    root = os.environ.get("TFDS_DATA_DIR")
    if root is None or not (Path(root) / name).is_dir():
        pytest.skip(f"TFDS_DATA_DIR does not point to a directory with {name}")
    dataset = data.load(name)
    assert dataset.train_images.shape == (num_train, *shape)
    assert dataset.test_images.shape == (10000, *shape)
    assert np.bincount(dataset.train_labels).size == dataset.num_classes == 10
