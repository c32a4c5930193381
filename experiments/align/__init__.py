"""Brings a checkpoint to the representation nearest another one's, as a command.

Read and written by `files`; the groups of hidden units come from a traced model, from a JSON file
(`written`), or are guessed from names and shapes where that can be done honestly (`guess`).
"""

from experiments.align.command import AlignCheckpoints

__all__ = ["AlignCheckpoints"]
