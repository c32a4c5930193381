"""pfn_optax: find where a network's gradient is stuck, say why, and fix it, inside JAX and Optax.

The Parameter Flow Network:

- `pfn`: an optax transformation that amplifies the gradients of the bottleneck blocks.
- `with_pfn`: the same around an optimizer, acting on its updates.
- `PFNState`, `Status`, `raise_for_status`: what it knows, readable at any step.
- `flow_value`: the maximum flow as a differentiable function of the parameters.
- `cut_report`, `draw_flow`, `flow_html`: that state as a table, a picture, an interactive page.

The parts under it:

- `graph_from_loss`: how the layers of a model are joined, read off its loss.
- `unit_graph`: the same down to groups of hidden units and the sub-matrices between them.
- `FlowGraph`, `Edge`: the same, written by hand.
- `FlowNetwork`, `max_flow`: maximum flow and minimum cut on arrays, inside jit.
- `pfn_optax.partition`, `pfn_optax.capacity`: parameters to blocks, blocks to capacities.

Beside it, on the same groups of hidden units (`pfn_optax.units`):

- `pfn_optax.align`: networks matched by permuting units, merged, kept near a reference.
- `pfn_optax.curvature`: the spectrum of the Hessian, its inertia, a probe for training.
- `pfn_optax.landscape`: networks embedded in wider ones, critical points, condensation.
- `pfn_optax.growth`: more units and fewer, while training, with the optimizer's state along.
- `pfn_optax.dynamics`: Lyapunov exponents, and gradients that survive chaos.
- `pfn_optax.propagation`: what depth does to activations and gradients, mean field or measured.

And on top of all of them:

- `diagnose` (`pfn_optax.diagnosis`): what is wrong with a network that does not train.
"""

import importlib
from typing import TYPE_CHECKING, Any

from pfn_optax.drawing import draw_flow, flow_html
from pfn_optax.flow import FlowNetwork, MaxFlow, WarmStart, max_flow
from pfn_optax.flow_value import flow_value
from pfn_optax.graph import Edge, FlowGraph, GraphWarning, graph_from_loss, unit_graph
from pfn_optax.report import CutReport, CutRow, cut_report
from pfn_optax.state import PFNState, WithPFNState
from pfn_optax.status import DiagnosisError, Status, raise_for_status
from pfn_optax.transform import pfn, with_pfn

if TYPE_CHECKING:
    from pfn_optax.diagnosis import diagnose

__version__ = "0.1.0"

__all__ = [
    "CutReport",
    "CutRow",
    "DiagnosisError",
    "Edge",
    "FlowGraph",
    "FlowNetwork",
    "GraphWarning",
    "MaxFlow",
    "PFNState",
    "Status",
    "WarmStart",
    "WithPFNState",
    "cut_report",
    "diagnose",
    "draw_flow",
    "flow_html",
    "flow_value",
    "graph_from_loss",
    "max_flow",
    "pfn",
    "raise_for_status",
    "unit_graph",
    "with_pfn",
]


def __getattr__(name: str) -> Any:
    """Imports what is not needed for training when it is asked for."""
    if name == "diagnose":
        return importlib.import_module("pfn_optax.diagnosis").diagnose
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
