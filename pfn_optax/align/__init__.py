"""Alignment: two networks matched by permuting (and rescaling) hidden units.

- `align`: moves one network to the representation in which it is nearest to another.
- `Alignment`, `AlignmentStatus`: what it returns.
- `distance`: the objective, on its own.
"""

from pfn_optax.align.alignment import Alignment, AlignmentStatus, align
from pfn_optax.align.objective import distance

__all__ = ["Alignment", "AlignmentStatus", "align", "distance"]
