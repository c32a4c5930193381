"""Does the cut know? Bottlenecks planted in random networks, and who finds them.

What is planted (`bottlenecks`) in which networks (`networks`) is known by construction. After some
steps on real digits (`training`), or none, minimum cuts and rivals that need no flow name what they
hold for the cause (`methods`), and are scored (`scores`, `tables`, `figure`).
"""

from experiments.planted.experiment import PlantedExperiment

__all__ = ["PlantedExperiment"]
