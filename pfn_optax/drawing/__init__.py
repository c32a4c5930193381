"""Pictures: the flow network (flow as width, saturation as colour, the cut), and loss barriers."""

from pfn_optax.drawing.barrier import draw_barrier
from pfn_optax.drawing.figure import draw_flow
from pfn_optax.drawing.page import flow_html

__all__ = ["draw_barrier", "draw_flow", "flow_html"]
