"""Measurements in pieces: each is a line on disk as soon as it is done."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments import runs

Piece = tuple[Any, ...]


def resumed(
    file: Path,
    pieces: Sequence[Piece],
    measure: Callable[..., dict[str, Any]],
    *,
    names: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Measures what the file does not hold yet.

    Args:
        file: JSON lines of a run folder.
        pieces: what to measure, each a tuple of JSON values.
        measure: called with the values of a piece; returns its numbers as JSON values.
        names: of the values, by which a record holds them; by default all are under `"piece"`.

    Returns:
        A record for each piece, in order: its numbers, and the piece itself.
    """

    def piece_of(record: dict[str, Any]) -> Piece:
        return tuple(record["piece"] if names is None else (record[name] for name in names))

    def by_piece() -> dict[Piece, dict[str, Any]]:
        return {piece_of(record): record for record in runs.read_lines(file)}

    records = by_piece()
    # A last line cut short by a crash was not read, and is cut off.
    whole = file.read_bytes().rfind(b"\n") + 1 if file.exists() else 0
    with runs.LineLog(file, keep_bytes=whole) as log:
        for piece in tqdm(pieces, desc=file.stem, unit=" pieces"):
            if piece not in records:
                own = {"piece": piece} if names is None else dict(zip(names, piece, strict=True))
                log.write(own | measure(*piece))
    records = by_piece()
    return [records[piece] for piece in pieces]
