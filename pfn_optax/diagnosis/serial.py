"""A diagnosis as JSON and back; `schema.json` beside this file says what it holds.

JSON has no NaN and no infinity, and null is taken: it stands for what was not measured. So a number
that is not finite is one of the strings "NaN", "Infinity", "-Infinity", which Python's `float` and
JavaScript's `Number` read. Enumerations are their names in lower case.
"""

import dataclasses
import enum
import json
import math
import types
from importlib import resources
from typing import Any, get_args, get_origin, get_type_hints

from pfn_optax.diagnosis.diagnosis import Diagnosis

FORMAT = "pfn_optax.diagnosis"
VERSION = 1  # counts up whenever a reader of the last one would be misled

_NONFINITE = ("NaN", "Infinity", "-Infinity")


def to_json(diagnosis: Diagnosis, *, indent: int | None = 2) -> str:
    """Writes a diagnosis as JSON; see `Diagnosis.to_json`."""
    record = {"format": FORMAT, "version": VERSION, **_encode(Diagnosis, diagnosis)}
    return json.dumps(record, indent=indent, allow_nan=False)


def from_json(text: str | bytes) -> Diagnosis:
    """Reads what `to_json` wrote; see `Diagnosis.from_json`."""
    try:
        record = json.loads(text)
    except ValueError as error:
        raise ValueError(f"A diagnosis must be JSON, and this is none: {error}") from None
    if not isinstance(record, dict) or record.pop("format", None) != FORMAT:
        raise ValueError(f'A diagnosis must be a JSON object with "format": "{FORMAT}".')
    if (version := record.pop("version", None)) != VERSION:
        raise ValueError(
            f"This version of pfn_optax reads diagnoses of version {VERSION}, got {version!r}: "
            f"read it with the version of pfn_optax that wrote it, or diagnose again."
        )
    return _decode(Diagnosis, record, "the diagnosis")


def schema() -> dict[str, Any]:
    """Returns the JSON schema (draft 2020-12) that `to_json` keeps to."""
    return json.loads(
        resources.files("pfn_optax.diagnosis").joinpath("schema.json").read_text("utf-8")
    )


def _encode(kind: Any, value: Any) -> Any:
    """Writes by the declared type: numbers may come as scalars of NumPy or JAX."""
    if isinstance(kind, types.UnionType):
        return None if value is None else _encode(_without_none(kind), value)
    if get_origin(kind) is tuple:
        return [_encode(get_args(kind)[0], item) for item in value]
    if get_origin(kind) is dict:
        return {str(name): _encode(get_args(kind)[1], item) for name, item in value.items()}
    if issubclass(kind, enum.Enum):
        return value.name.lower()
    if _is_record(kind):
        hints = get_type_hints(kind)
        return {name: _encode(hints[name], getattr(value, name)) for name in _fields(kind)}
    if kind is float:
        value = float(value)
        names = {math.inf: "Infinity", -math.inf: "-Infinity"}
        return value if math.isfinite(value) else names.get(value, "NaN")
    return kind(value)


def _decode(kind: Any, value: Any, place: str) -> Any:
    if isinstance(kind, types.UnionType):
        return None if value is None else _decode(_without_none(kind), value, place)
    if get_origin(kind) is tuple:
        items = _expect(list, value, place)
        return tuple(
            _decode(get_args(kind)[0], item, f"{place}[{index}]")
            for index, item in enumerate(items)
        )
    if get_origin(kind) is dict:
        return {
            name: _decode(get_args(kind)[1], item, f"{place}.{name}")
            for name, item in _expect(dict, value, place).items()
        }
    if issubclass(kind, enum.Enum):
        names = {member.name.lower(): member for member in kind}
        if _expect(str, value, place) not in names:
            raise ValueError(f"{place} must be one of {', '.join(names)}, got {value!r}.")
        return names[value]
    if _is_record(kind):
        return _decode_record(kind, _expect(dict, value, place), place)
    if kind is float:
        is_named = isinstance(value, str) and value in _NONFINITE
        return float(value if is_named else _expect((int, float), value, place))
    return _expect(kind, value, place)


def _decode_record(kind: Any, record: dict[str, Any], place: str) -> Any:
    hints = get_type_hints(kind)
    fields = _fields(kind)
    if unknown := sorted(record.keys() - fields):
        raise ValueError(f"{place} has no field {unknown[0]!r}; it has {', '.join(fields)}.")
    if missing := [name for name, is_needed in fields.items() if is_needed and name not in record]:
        raise ValueError(f"{place} must have the field {missing[0]!r}.")
    return kind(
        **{name: _decode(hints[name], value, f"{place}.{name}") for name, value in record.items()}
    )


def _fields(kind: Any) -> dict[str, bool]:
    """Names of the fields, and whether a record must have them."""
    if not dataclasses.is_dataclass(kind):
        return {name: name not in kind._field_defaults for name in kind._fields}
    none = dataclasses.MISSING
    return {
        field.name: field.default is none and field.default_factory is none
        for field in dataclasses.fields(kind)
    }


def _is_record(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind) or hasattr(kind, "_fields")


def _without_none(kind: Any) -> Any:
    [inner] = [part for part in get_args(kind) if part is not type(None)]
    return inner


def _expect(kind: Any, value: Any, place: str) -> Any:
    is_bool_for_number = isinstance(value, bool) and kind is not bool
    if not isinstance(value, kind) or is_bool_for_number:
        names = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"{place} must be of type {names}, got {value!r}.")
    return value
