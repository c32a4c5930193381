"""pfn_optax: find where a network's gradient is stuck, say why, and fix it, inside JAX and Optax.

The Parameter Flow Network:

- `pfn`: an optax transformation that amplifies the gradients of the bottleneck blocks.
- `with_pfn`: the same around an optimizer, acting on its updates.
- `PFNState`, `Status`, `raise_for_status`: what it knows, readable at any step.
- `cut_report`, `draw_flow`: that state as a table and as a picture.

The parts under it:

- `FlowGraph`, `Edge`: how the layers of a model are joined.
- `FlowNetwork`, `max_flow`: maximum flow and minimum cut on arrays, inside jit.
- `pfn_optax.partition`, `pfn_optax.capacity`: parameters to blocks, blocks to capacities.
"""

from pfn_optax.drawing import draw_flow
from pfn_optax.flow import FlowNetwork, MaxFlow, max_flow
from pfn_optax.graph import Edge, FlowGraph
from pfn_optax.report import CutReport, CutRow, cut_report
from pfn_optax.status import DiagnosisError, Status, raise_for_status
from pfn_optax.transform import PFNState, WithPFNState, pfn, with_pfn

__version__ = "0.1.0"

__all__ = [
    "CutReport",
    "CutRow",
    "DiagnosisError",
    "Edge",
    "FlowGraph",
    "FlowNetwork",
    "MaxFlow",
    "PFNState",
    "Status",
    "WithPFNState",
    "cut_report",
    "draw_flow",
    "max_flow",
    "pfn",
    "raise_for_status",
    "with_pfn",
]
