"""Alignment: networks matched by permuting (and rescaling) hidden units.

- `align`: moves one network to the representation in which it is nearest to another.
- `align_many`: brings several to one representation.
- `Alignment`, `AlignmentStatus`: what they return.
- `distance`: the objective, on its own.
- `unit_activations`: what the units of any function compute, for matching by activations.
"""

from pfn_optax.align.activations import unit_activations
from pfn_optax.align.alignment import Alignment, AlignmentStatus, align
from pfn_optax.align.many import align_many
from pfn_optax.align.objective import distance

__all__ = [
    "Alignment",
    "AlignmentStatus",
    "align",
    "align_many",
    "distance",
    "unit_activations",
]
