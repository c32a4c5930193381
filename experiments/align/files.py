"""Checkpoints as trees of NumPy arrays: `.safetensors`, `.npz` and Orbax folders.

Nothing is ever unpickled. Names with slashes are nested trees; dots stay part of a name.
"""

import logging
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.errors import CheckpointError
from pfn_optax.paths import named_leaves

PICKLED = {".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}


class Checkpoint(NamedTuple):
    """What a file holds.

    Attributes:
        tree: the arrays, nested.
        names: the names in the order of the file.
        metadata: strings by name, of `.safetensors`.
    """

    tree: Any
    names: tuple[str, ...]
    metadata: dict[str, str] | None = None


def require_known(path: Path) -> None:
    """Refuses a path whose format is not known.

    Raises:
        CheckpointError: if it is a pickle, or of any other kind.
    """
    if path.suffix in PICKLED:
        raise CheckpointError(
            f"{path} is a pickle, which can run any code when it is read, and is not opened. Where "
            "you trust it, convert it in PyTorch: safetensors.torch.save_file("
            f"torch.load({path.name!r}, weights_only=True), {path.stem + '.safetensors'!r})"
        )
    if path.suffix not in {".npz", ".safetensors"} and not path.is_dir() and path.suffix:
        raise CheckpointError(
            f"{path} has the ending {path.suffix!r}; known are .safetensors, .npz, and folders "
            "written by Orbax, without an ending."
        )


def require_writable(path: Path, *, overwrite: bool) -> None:
    """Refuses to write what is of no known format, or over what is there.

    Raises:
        CheckpointError: if so.
    """
    require_known(path)
    if path.exists() and not overwrite:
        raise CheckpointError(f"{path} exists; choose another name, or pass --overwrite.")


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint.

    Args:
        path: the file, or the folder.

    Returns:
        Its arrays.

    Raises:
        CheckpointError: if it does not exist, is damaged, of another kind, or holds what is no
            array of numbers.
    """
    require_known(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist.")
    if path.is_dir():
        checkpoint = _load_orbax(path)
    else:
        checkpoint = _load_npz(path) if path.suffix == ".npz" else _load_safetensors(path)
    for keys, leaf in named_leaves(checkpoint.tree):
        if leaf.dtype.kind not in "biufc" and leaf.dtype.name not in _EXTENDED:
            raise CheckpointError(
                f"{path}: {'/'.join(keys)} has dtype {leaf.dtype}, which is no number (.npz files "
                "lose bfloat16: use .safetensors)."
            )
    return checkpoint


_EXTENDED = {"bfloat16", "float8_e4m3fn", "float8_e5m2"}


def save(path: Path, checkpoint: Checkpoint, *, overwrite: bool = False) -> None:
    """Writes a checkpoint: whole or not at all.

    Args:
        path: where to; the ending sets the format, none is an Orbax folder.
        checkpoint: what to write.
        overwrite: whether another one may be there.

    Raises:
        CheckpointError: if there is something already, or the format is not known.
    """
    require_writable(path, overwrite=overwrite)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    writers: dict[str, Callable[[Path, Checkpoint], None]] = {
        ".npz": _save_npz,
        ".safetensors": _save_safetensors,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        writers.get(path.suffix, _save_orbax)(partial, checkpoint)
        _replace(partial, path)
    finally:
        _remove(partial)


def _replace(partial: Path, path: Path) -> None:
    """Puts the new one where the old one is; a folder cannot be put over another in one move."""
    if not path.is_dir():
        os.replace(partial, path)
        return
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    os.replace(path, old)
    try:
        os.replace(partial, path)
    except OSError:
        os.replace(old, path)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def nested(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Makes a tree of flat names, split at slashes.

    Example:
        >>> nested(Path("a.npz"), {"Dense_0/kernel": 1, "fc1.weight": 2})
        {'Dense_0': {'kernel': 1}, 'fc1.weight': 2}
    """
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *folders, last = name.split("/")
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
            if not isinstance(inner, dict):
                break
        if not isinstance(inner, dict) or last in inner:
            raise CheckpointError(f"{path}: {name!r} is both an array and a folder of others.")
        inner[last] = array
    return tree


def flat(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """The arrays by name, in the order of the file."""
    arrays = {"/".join(keys): leaf for keys, leaf in named_leaves(checkpoint.tree)}
    return {name: arrays[name] for name in checkpoint.names}


def _load_npz(path: Path) -> Checkpoint:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, TypeError) as error:
        raise CheckpointError(
            f"{path} is no whole .npz file of plain arrays ({error}). Object arrays are pickles "
            "and are not read: save the arrays one by one."
        ) from error
    return Checkpoint(nested(path, arrays), tuple(arrays))


def _save_npz(path: Path, checkpoint: Checkpoint) -> None:
    arrays: dict[str, Any] = flat(checkpoint)
    for name, array in arrays.items():
        if array.dtype.name in _EXTENDED:
            raise CheckpointError(
                f"{name} has dtype {array.dtype}, which .npz files lose: write .safetensors."
            )
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _load_safetensors(path: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
    except (SafetensorError, OSError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is no whole .safetensors file ({error}).") from error
    return Checkpoint(nested(path, arrays), tuple(arrays), metadata)


def _save_safetensors(path: Path, checkpoint: Checkpoint) -> None:
    from safetensors.numpy import save_file

    arrays = {name: np.asarray(array, order="C") for name, array in flat(checkpoint).items()}
    save_file(arrays, path, metadata=checkpoint.metadata)


def _load_orbax(path: Path) -> Checkpoint:
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    if not (path / "_METADATA").exists():
        inner = sorted(str(found.parent) for found in path.glob("**/_METADATA"))
        hint = f" Did you mean {', '.join(inner[:3])}?" if inner else ""
        raise CheckpointError(f"{path} is no folder that Orbax wrote a tree to.{hint}")
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            known = checkpointer.metadata(path.absolute()).item_metadata.tree
            kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), known)
            tree = checkpointer.restore(path.absolute(), restore_args=kinds)
    except Exception as error:  # Orbax and TensorStore have no class of their own for damage
        raise CheckpointError(f"{path} cannot be read by Orbax ({error}).") from error
    tree = jax.tree.map(np.asarray, tree)
    return Checkpoint(tree, tuple("/".join(keys) for keys, _ in named_leaves(tree)))


def _save_orbax(path: Path, checkpoint: Checkpoint) -> None:
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), checkpoint.tree)
