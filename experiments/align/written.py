"""Specs written by hand as JSON: for each group the axes that its units index.

```json
{"fc1": ["fc1.weight:0", "fc1.bias:0", "fc2.weight:1"],
 "conv": ["conv/kernel:3", {"leaf": "head/kernel", "axis": 0, "before": 49}]}
```
"""

import json
from pathlib import Path
from typing import Any

from experiments.errors import CheckpointError
from pfn_optax.units import Member, UnitSpec, spec_from_axes

_FIELDS = {"axis", "start", "before", "after"}


def read_spec(file: Path, params: Any) -> UnitSpec:
    """Reads a spec.

    Args:
        file: JSON: group to a list of `"leaf:axis"`, or of objects with `leaf` and `axis`, and
            `start`, `before`, `after` where the units are not all of the axis (see `Member`).
        params: the parameters that it is for.

    Returns:
        The spec, not yet checked.

    Raises:
        CheckpointError: if the file is not such JSON, or does not fit the parameters.
    """
    try:
        groups = json.loads(file.read_text())
        axes = {name: [_place(place) for place in places] for name, places in groups.items()}
        return spec_from_axes(params, axes)
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{file} is no spec: {error}. Write for each group its axes, as "
            '{"fc1": ["fc1.weight:0", "fc1.bias:0", "fc2.weight:1"]}.'
        ) from error


def _place(place: Any) -> str | Member:
    if isinstance(place, str):
        return place
    fields = dict(place)
    path = tuple(fields.pop("leaf").split("/"))
    if unknown := fields.keys() - _FIELDS:
        raise ValueError(f"{'/'.join(path)} has unknown fields {sorted(unknown)}")
    numbers = {name: int(value) for name, value in fields.items()}
    return Member(
        path,
        numbers["axis"],
        start=numbers.get("start", 0),
        before=numbers.get("before", 1),
        after=numbers.get("after", 1),
    )
