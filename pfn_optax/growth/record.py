"""What a controller has decided, and when: all that a checkpoint must hold of it."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FORMAT = "pfn_optax.growth"
VERSION = 1  # counts up whenever a reader of the last one would be misled


@dataclass(frozen=True)
class Decision:
    """What came of one call of the controller.

    Attributes:
        step: training step of the call.
        diagnoses: number of certified diagnoses until then.
        cut: the groups at the cut, the one that has been there longest and deepest first.
        grown: units added by group.
        shrunk: units removed by group.
        num_params: number of parameters afterwards.
        reasons: why, in words, one for each group or circumstance.
    """

    step: int
    diagnoses: int
    cut: tuple[str, ...]
    grown: dict[str, int]
    shrunk: dict[str, int]
    num_params: int
    reasons: tuple[str, ...]

    @property
    def has_changed(self) -> bool:
        """Whether the network was changed."""
        return bool(self.grown or self.shrunk)

    def __str__(self) -> str:
        """The step and the reasons, in one line."""
        return f"step {self.step}: {'; '.join(self.reasons)}"


@dataclass(frozen=True)
class GrowthRecord:
    """The architecture and how it came about.

    Attributes:
        initial: the number of units of each group at the start.
        decisions: what came of each call.
        reference: number of parameters at the first call, None before.

    Example:
        >>> from pfn_optax.growth import Decision, GrowthRecord
        >>> grown = Decision(100, 5, ("waist",), {"waist": 7}, {}, 74, ("waist: 1 -> 8 units",))
        >>> record = GrowthRecord({"first": 16, "waist": 1}, (grown,), 39)
        >>> record.widths, record.num_changes, record.num_programs
        ({'first': 16, 'waist': 8}, 1, 2)
        >>> GrowthRecord.from_dict(record.to_dict()) == record
        True
        >>> print(record)
        step 100: waist: 1 -> 8 units
    """

    initial: dict[str, int]
    decisions: tuple[Decision, ...] = ()
    reference: int | None = None

    @property
    def changes(self) -> tuple[Decision, ...]:
        """The decisions that changed the network."""
        return tuple(decision for decision in self.decisions if decision.has_changed)

    @property
    def num_changes(self) -> int:
        """How often the network was changed."""
        return len(self.changes)

    @property
    def architectures(self) -> tuple[dict[str, int], ...]:
        """The number of units of each group at the start and after each change."""
        found = [dict(self.initial)]
        for change in self.changes:
            before = found[-1]
            found.append(
                {
                    name: size + change.grown.get(name, 0) - change.shrunk.get(name, 0)
                    for name, size in before.items()
                }
            )
        return tuple(found)

    @property
    def widths(self) -> dict[str, int]:
        """The number of units of each group now."""
        return self.architectures[-1]

    @property
    def num_programs(self) -> int:
        """For how many architectures each program was compiled: 1 + the number of recompiles."""
        return len({tuple(widths.values()) for widths in self.architectures})

    @property
    def since(self) -> int:
        """Number of certified diagnoses at the last change; older ones are of another network."""
        return max((change.diagnoses for change in self.changes), default=0)

    def with_decision(self, decision: Decision, reference: int) -> "GrowthRecord":
        """Returns the record with one more decision."""
        return GrowthRecord(self.initial, (*self.decisions, decision), reference)

    def __str__(self) -> str:
        """The changes, one a line."""
        return "\n".join(map(str, self.changes)) or "no change"

    def to_dict(self) -> dict[str, Any]:
        """Returns the record in types of JSON, as `json.dumps` and Orbax's `JsonSave` take them."""
        record = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}
        return json.loads(json.dumps(record))

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "GrowthRecord":
        """Reads what `to_dict` returned.

        Args:
            record: the dictionary.

        Returns:
            The record.

        Raises:
            ValueError: if it is none, or of another version.
        """
        if not isinstance(record, Mapping) or record.get("format") != FORMAT:
            raise ValueError(
                f'the record of a controller must be a mapping with "format": "{FORMAT}", got '
                f"{record!r:.80}."
            )
        if record.get("version") != VERSION:
            raise ValueError(
                f"this version of pfn_optax reads records of version {VERSION}, got "
                f"{record.get('version')!r}: read it with the version that wrote it."
            )
        decisions = tuple(_decision(each) for each in record["decisions"])
        return cls(dict(record["initial"]), decisions, record["reference"])


def _decision(record: Mapping[str, Any]) -> Decision:
    tuples = {name: tuple(record[name]) for name in ("cut", "reasons")}
    return Decision(**{**record, **tuples})
