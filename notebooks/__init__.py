"""Notebooks, each beside the script that it is written from."""
