"""Dynamics: how fast the states of a network part, and gradients that survive it."""

from pfn_optax.dynamics.steps import rk4

__all__ = ["rk4"]
