"""Measurements in pieces: each is a line on disk as soon as it is done."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments import runs

Piece = tuple[Any, ...]


def resumed(
    file: Path, pieces: Sequence[Piece], measure: Callable[..., dict[str, Any]]
) -> list[dict[str, Any]]:
    """Measures what the file does not hold yet.

    Args:
        file: JSON lines of a run folder.
        pieces: what to measure, each a tuple of JSON values.
        measure: called with the values of a piece; returns its numbers as JSON values.

    Returns:
        A record for each piece, in order: its numbers, and the piece itself.
    """
    records = {tuple(record["piece"]): record for record in runs.read_lines(file)}
    # A last line cut short by a crash was not read, and is cut off.
    whole = file.read_bytes().rfind(b"\n") + 1 if file.exists() else 0
    with runs.LineLog(file, keep_bytes=whole) as log:
        for piece in tqdm(pieces, desc=file.stem, unit=" pieces"):
            if piece not in records:
                log.write({"piece": piece, **measure(*piece)})
    records = {tuple(record["piece"]): record for record in runs.read_lines(file)}
    return [records[piece] for piece in pieces]
