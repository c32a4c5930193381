"""What measurements are compared with."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of `diagnose`; each says where it comes from.

    Attributes:
        dead_units: share of a layer's units that are zero for every example. Where all examples
            have come to look alike, a ReLU is on for all or off for all, so that half of the units
            are dead: more is not explained by depth.
        all_dead: share from which next to nothing passes the layer.
    """

    dead_units: float = 0.75
    all_dead: float = 0.98
