"""The flow network as a picture: flow as width, saturation as colour, the cut marked."""

from pfn_optax.drawing.figure import draw_flow
from pfn_optax.drawing.page import flow_html

__all__ = ["draw_flow", "flow_html"]
