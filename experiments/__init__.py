"""Experiments on pfn_optax: one file per claim, on shared data, models, training and plots.

Run `python -m experiments --help` for the list.
"""
