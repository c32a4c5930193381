"""Maximum flow and minimum cut on arrays: jit, vmap, scan and grad all the way."""

from pfn_optax.flow.certificate import certify
from pfn_optax.flow.first_order import WarmStart
from pfn_optax.flow.max_flow import MaxFlow, max_flow
from pfn_optax.flow.network import FlowNetwork

__all__ = ["FlowNetwork", "MaxFlow", "WarmStart", "certify", "max_flow"]
