"""Topology optimisation: more units where they are missing, fewer where they are not needed.

- `grow`: adds units to groups; function, loss, batch statistics and optimizer state stay.
- `shrink`: removes units; the change of the loss is measured and bounded.
- `grow_module`: adds units to a module of Flax NNX.
- `widths`: the sizes to build a Linen module with.
- `pad`, `unpad`, `grow_padded`, `repad`, `only_active`: growth inside arrays of one size, for
  ensembles under `jax.vmap` and without recompilation.
- `GrowthController`: grows the groups at the minimum cut while a network trains, in a `Budget`.
- `cost_of`: what a network costs; `GrowthRecord`: what a controller has decided, and why.
- `rank_groups`: which groups the minimum cut asks to grow; `slack_groups`: which have room.
- `state_kinds`, `Kind`: what the leaves of an optimizer's state are made of.
"""

from pfn_optax.growth.budget import Budget, Cost, cost_of
from pfn_optax.growth.changes import Kind
from pfn_optax.growth.controller import GrowthController
from pfn_optax.growth.grow import Grown, grow, widths
from pfn_optax.growth.kinds import state_kinds
from pfn_optax.growth.modules import GrownModule, grow_module
from pfn_optax.growth.padding import grow_padded, only_active, pad, repad, unpad
from pfn_optax.growth.proposal import Proposal
from pfn_optax.growth.ranking import Ranked, Ranking, rank_groups
from pfn_optax.growth.record import Decision, GrowthRecord
from pfn_optax.growth.shrink import Shrunk, shrink
from pfn_optax.growth.slack import Slack, slack_groups
from pfn_optax.growth.stepped import Stepped, SteppedModule

__all__ = [
    "Budget",
    "Cost",
    "Decision",
    "Grown",
    "GrownModule",
    "GrowthController",
    "GrowthRecord",
    "Kind",
    "Proposal",
    "Ranked",
    "Ranking",
    "Shrunk",
    "Slack",
    "Stepped",
    "SteppedModule",
    "cost_of",
    "grow",
    "grow_module",
    "grow_padded",
    "only_active",
    "pad",
    "rank_groups",
    "repad",
    "shrink",
    "slack_groups",
    "state_kinds",
    "unpad",
    "widths",
]
