"""Groups of hidden units: which axis of which leaf of the parameters they index.

- `unit_spec`: finds them by tracing a function, and proves them on it.
- `UnitSpec`, `Group`, `Member`: what it finds; permutes, rescales and flips units.
- `copy_units`, `resized`: wider and narrower layers of copies of units.
- `merge_units`: fewer units, each read as a mixture of old ones.
- `spec_from_axes`: a spec written by hand.
- `check_spec`: proves a spec, also a written one.
- `axes_of`, `Segment`: the same groups on every value of a traced function.
- `unit_activations`: what the units of each group compute.
- `num_symmetries`: how many permutations leave the function as it is.
"""

from pfn_optax.units.activations import unit_activations
from pfn_optax.units.axes import Axes, Segment, axes_of
from pfn_optax.units.check import check_spec
from pfn_optax.units.copying import copy_units, resized
from pfn_optax.units.find import unit_spec
from pfn_optax.units.from_axes import spec_from_axes
from pfn_optax.units.merging import merge_units
from pfn_optax.units.spec import Group, Member, UnitSpec, UnitSpecError, num_symmetries

__all__ = [
    "Axes",
    "Group",
    "Member",
    "Segment",
    "UnitSpec",
    "UnitSpecError",
    "axes_of",
    "check_spec",
    "copy_units",
    "merge_units",
    "num_symmetries",
    "resized",
    "spec_from_axes",
    "unit_activations",
    "unit_spec",
]
