"""From an archive in the official format, over HTTP, to a TFDS data source, without TensorFlow."""

import shutil
import sys

import numpy as np
import pytest

pytest.importorskip("array_record", reason="TFDS random access needs array_record")

from experiments import builders, data
from experiments.errors import DataUnavailableError
from tests.experiments import archives


def moved(builder: type, address: str) -> type:
    """The builder with its archives at another address."""
    urls = tuple(address + url.rsplit("/", 1)[-1] for url in builder.archives)
    namespace = {"archives": urls, "name": builder.name, "__module__": builder.__module__}
    return type(builder)(builder.__name__, (builder,), namespace, skip_registration=True)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist"])
def test_prepares_what_the_archive_holds(name, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PFN_OPTAX_CACHE", str(tmp_path / "cache"))
    builder = builders.BUILDERS[name]
    origin, root = tmp_path / "origin", tmp_path / "tfds"
    origin.mkdir()
    written = (
        archives.write_mnist(origin) if name == "mnist" else archives.write_cifar(origin, builder)
    )
    with archives.served(origin) as address:
        folder = builders.prepare(name, root, builder=moved(builder, address))
    assert folder == root / name / str(builder.VERSION)

    loaded = data.load(name, root)
    assert loaded.num_classes == (100 if name == "cifar100" else 10)
    for split in ("train", "test"):
        # TFDS shuffles the records of a split once, when it writes them.
        images, labels = getattr(loaded, f"{split}_images"), getattr(loaded, f"{split}_labels")
        flat = np.c_[labels, images.reshape(len(images), -1)]
        wanted = written[f"{split}_images"].reshape(len(images), -1)
        wanted = np.c_[written[f"{split}_labels"], wanted]
        np.testing.assert_array_equal(*(x[np.lexsort(x.T)] for x in (flat, wanted)))
    assert "tensorflow" not in sys.modules


def test_same_features_as_the_official_builders(tmp_path):
    import tensorflow_datasets as tfds

    for name, builder in builders.BUILDERS.items():
        official, ours = tfds.builder(name, data_dir=tmp_path), builder(data_dir=tmp_path)
        assert ours.info.full_name == official.info.full_name
        assert ours.info.features.to_json() == official.info.features.to_json()
        assert ours.info.supervised_keys == official.info.supervised_keys
        checksums = official.url_infos
        assert checksums is not None
        assert set(builder.archives) == set(checksums)


def test_refuses_an_archive_with_another_checksum(tmp_path):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    archives.write_cifar(manual, builders.Cifar10)
    with pytest.raises(DataUnavailableError, match=r"(?s)checksum.*--data-dir DIR"):
        builders.prepare("cifar10", tmp_path)


def test_says_what_to_do_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    origin = tmp_path / "origin"
    origin.mkdir()
    with archives.served(origin) as address:
        gone = moved(builders.Cifar100, address)
    with pytest.raises(DataUnavailableError) as raised:
        builders.prepare("cifar100", tmp_path / "tfds", builder=gone)
    for remedy in ("TFDS_DATA_DIR", "python -m experiments data cifar100", "downloads/manual"):
        assert remedy in str(raised.value)


def test_downloads_are_not_asked_for_twice(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    origin, root = tmp_path / "origin", tmp_path / "tfds"
    origin.mkdir()
    archives.write_mnist(origin)
    with archives.served(origin) as address:
        builder = moved(builders.Mnist, address)
        folder = builders.prepare("mnist", root, builder=builder)
    shutil.rmtree(folder)
    assert builders.prepare("mnist", root, builder=builder) == folder  # the server is gone
