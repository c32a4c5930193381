"""Docstrings say "Example:", as Google's style has it; griffe reads doctests under "Examples:"."""

import re
from typing import Any

import griffe


class PluralExamples(griffe.Extension):
    """Renames the section, so that a doctest is shown as code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for every module, class, function and attribute that it has read."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^(\s*)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE
            )
