"""What measurements are compared with."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of `diagnose`; each says where it comes from."""
