"""Topology optimisation: more units where they are missing, fewer where they are not needed.

- `grow`: adds units to groups; function, loss, batch statistics and optimizer state stay.
- `shrink`: removes units; the change of the loss is measured and bounded.
- `grow_module`: adds units to a module of Flax NNX.
- `widths`: the sizes to build a Linen module with.
- `pad`, `unpad`, `grow_padded`, `repad`, `only_active`: growth inside arrays of one size, for
  ensembles under `jax.vmap` and without recompilation.
- `rank_groups`: which groups the minimum cut asks to grow.
- `state_kinds`, `Kind`: what the leaves of an optimizer's state are made of.
"""

from pfn_optax.growth.changes import Kind
from pfn_optax.growth.grow import Grown, grow, widths
from pfn_optax.growth.kinds import state_kinds
from pfn_optax.growth.modules import GrownModule, grow_module
from pfn_optax.growth.padding import grow_padded, only_active, pad, repad, unpad
from pfn_optax.growth.ranking import Ranked, Ranking, rank_groups
from pfn_optax.growth.shrink import Shrunk, shrink

__all__ = [
    "Grown",
    "GrownModule",
    "Kind",
    "Ranked",
    "Ranking",
    "Shrunk",
    "grow",
    "grow_module",
    "grow_padded",
    "only_active",
    "pad",
    "rank_groups",
    "repad",
    "shrink",
    "state_kinds",
    "unpad",
    "widths",
]
