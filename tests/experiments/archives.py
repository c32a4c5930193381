"""Small data sets in the official binary formats, served over HTTP like the originals."""

import contextlib
import functools
import gzip
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments import builders

NUM_TRAIN, NUM_TEST = 30, 20


def images_and_labels(shape: tuple[int, ...], num_classes: int) -> dict[str, np.ndarray]:
    """Random images with the keys of a decoded data set."""
    rng = np.random.default_rng(0)
    draw = functools.partial(rng.integers, dtype=np.uint8)
    return {
        "train_images": draw(256, size=(NUM_TRAIN, *shape)),
        "train_labels": draw(num_classes, size=NUM_TRAIN),
        "test_images": draw(256, size=(NUM_TEST, *shape)),
        "test_labels": draw(num_classes, size=NUM_TEST),
    }


def write_cifar(folder: Path, builder: type[builders.Cifar10]) -> dict[str, np.ndarray]:
    """Write a CIFAR archive with the builder's members; returns what it holds."""
    data = images_and_labels((32, 32, 3), builder.label_sizes["label"])
    members = {
        file: "\n".join(f"{key}{i}" for i in range(builder.label_sizes[key])).encode() + b"\n\n"
        for key, file in builder.label_names.items()
    }
    for split, names in builder.members.items():
        images, labels = data[f"{split}_images"], data[f"{split}_labels"]
        columns = [np.zeros_like(labels)] * (len(builder.label_sizes) - 1) + [labels]
        pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        records = np.concatenate([np.stack(columns, 1), pixels], axis=1)
        for name, part in zip(names, np.array_split(records, len(names)), strict=True):
            members[name] = part.tobytes()
    with tarfile.open(folder / builder.archives[0].rsplit("/", 1)[-1], "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(f"cifar-batches-bin/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data


def write_mnist(folder: Path) -> dict[str, np.ndarray]:
    """Write MNIST's four gzipped idx files; returns what they hold."""
    data = images_and_labels((28, 28, 1), 10)
    arrays = [data["train_images"][..., 0], data["train_labels"]]
    arrays += [data["test_images"][..., 0], data["test_labels"]]
    for url, array in zip(builders.Mnist.archives, arrays, strict=True):
        header = bytes([0, 0, 8, array.ndim]) + np.asarray(array.shape, ">u4").tobytes()
        (folder / url.rsplit("/", 1)[-1]).write_bytes(gzip.compress(header + array.tobytes()))
    return data


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder over HTTP on this machine; yields its address, ending in a slash."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            del format, args

    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
