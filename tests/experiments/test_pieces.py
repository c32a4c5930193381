"""What a file holds is not measured again."""

import json

from experiments.pieces import resumed


def test_pieces_are_measured_once(tmp_path):
    measured = []

    def measure(name, number):
        measured.append((name, number))
        return {"value": 2 * number}

    file = tmp_path / "pieces.jsonl"
    assert resumed(file, [("a", 1), ("b", 2)], measure)[1] == {"piece": ["b", 2], "value": 4}
    assert resumed(file, [("b", 2), ("a", 3)], measure)[1] == {"piece": ["a", 3], "value": 6}
    assert measured == [("a", 1), ("b", 2), ("a", 3)]


def test_pieces_by_name(tmp_path):
    """In files of records that have names for the values of a piece, and a line cut short."""
    file = tmp_path / "pieces.jsonl"
    file.write_text('{"kind": "a", "number": 1, "value": 7}\n{"kind": "a", "num')
    found = resumed(
        file,
        [("a", 1), ("a", 2)],
        lambda kind, number: {"value": number * len(kind)},
        names=("kind", "number"),
    )
    assert found == [
        {"kind": "a", "number": 1, "value": 7},
        {"kind": "a", "number": 2, "value": 2},
    ]
    assert [json.loads(line) for line in file.read_text().splitlines()] == found
