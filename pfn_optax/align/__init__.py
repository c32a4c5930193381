"""Alignment: networks matched by permuting (and rescaling) hidden units, and then merged.

- `align`: moves one network to the representation in which it is nearest to another.
- `align_many`: brings several to one representation.
- `Alignment`, `AlignmentStatus`: what they return.
- `distance`: the objective, on its own.
- `with_alignment`: an optax wrapper that keeps a network near a reference while it trains.
- `permute_state`: an optimizer's state moved as the parameters were.
- `interpolate`, `merge`: models between models.
- `loss_barrier`, `Curve`: the loss along the line between two models.
- `repair`: gives the units of a merged model the statistics they have in the models.
- `reestimate_batch_stats`: measures the running statistics of batch norms again.
"""

from pfn_optax.align.alignment import Alignment, AlignmentStatus, align
from pfn_optax.align.barrier import Curve, loss_barrier
from pfn_optax.align.batch_norm import reestimate_batch_stats
from pfn_optax.align.interpolation import interpolate, merge
from pfn_optax.align.many import align_many
from pfn_optax.align.objective import distance
from pfn_optax.align.repair import repair
from pfn_optax.align.transform import WithAlignmentState, permute_state, with_alignment

__all__ = [
    "Alignment",
    "AlignmentStatus",
    "Curve",
    "WithAlignmentState",
    "align",
    "align_many",
    "distance",
    "interpolate",
    "loss_barrier",
    "merge",
    "permute_state",
    "reestimate_batch_stats",
    "repair",
    "with_alignment",
]
