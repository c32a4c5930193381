"""The loss landscapes of networks of different widths, and how they contain each other.

- `embed`, `widen`: a network in a wider one with the same outputs, loss and critical points.
- `condense`: the reverse, units that point the same way replaced by one.
- `predicted_inertia`: how many directions down, level and up a split adds to a critical point.
- `find_critical_point`: a minimum or saddle to rounding, for small networks.
"""

from pfn_optax.landscape.clusters import Clusters
from pfn_optax.landscape.comparison import Comparison
from pfn_optax.landscape.condensation import Condensed, condense
from pfn_optax.landscape.critical_point import CriticalPoint, find_critical_point
from pfn_optax.landscape.embedding import Embedded, embed, widen
from pfn_optax.landscape.prediction import predicted_inertia

__all__ = [
    "Clusters",
    "Comparison",
    "Condensed",
    "CriticalPoint",
    "Embedded",
    "condense",
    "embed",
    "find_critical_point",
    "predicted_inertia",
    "widen",
]
