"""Pictures: the flow network, barriers, phases, histories of measures and of widths."""

from pfn_optax.drawing.barrier import draw_barrier
from pfn_optax.drawing.figure import draw_flow
from pfn_optax.drawing.history import draw_history
from pfn_optax.drawing.page import flow_html
from pfn_optax.drawing.phases import draw_phase_diagram
from pfn_optax.drawing.widths import draw_widths

__all__ = [
    "draw_barrier",
    "draw_flow",
    "draw_history",
    "draw_phase_diagram",
    "draw_widths",
    "flow_html",
]
